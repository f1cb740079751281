"""
Comparing an answer with a recorded one: same keys, same types, same literals, placeholders bound once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_PLACEHOLDER = re.compile(r"<([a-zA-Z_][a-zA-Z_, ]*?)(\d*)(?::([\w-]+))?>")
_NANO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UNIX = "<unix>"
_FORMS = {
    "uuid": _UUID,
    "time": _NANO,
    "time:whole-seconds": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)",
    "pg_time": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}",
    "oid": r"\d+",
    "port": r"\d+",
    "hex": r"[0-9a-f]{%s}",
    "rand": r"[A-Za-z0-9]{%s}",
    "accessor8": r"[0-9a-f]{8}",
    "lease": r"[A-Za-z0-9]{24}",
    "user": r"[A-Za-z0-9]{20}-\d{10}",
    "role_id": _UUID,
    "secret_id": _UUID,
    "secret_id_accessor": _UUID,
    "entity": _UUID,
    "token_lease": r"h?[0-9a-f]{40,64}",
    "namespace_id": r"[A-Za-z0-9]{6}",
    "scram verifier": r"SCRAM-SHA-256\$4096:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+",
}
# What every build and every start may say differently.
_FREE = re.compile(r"version|build_date|cluster_.*|raft_.*|.*plugin_version|server_time_utc|uuid")
# Remaining seconds, also where a warning quotes them.
_TIMES = {"ttl", "lease_duration"}
_QUOTED_SECONDS = re.compile(r'(effective max_ttl of ")(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(")')
_FIRST_WORDS = "failed to connect to"
# Two answers that the real servers give by chance: revocation in the background, and the end of max_ttl.
_RACES = (
    {"lease expired", "lease not found"},
    {"past the max TTL, cannot renew", "lease not found", "lease expired"},
    {"1 error occurred:\n\t* past the max TTL, cannot renew\n\n", "permission denied"},
)


class Difference(NamedTuple):
    """What was recorded at *place*, and what came instead."""

    place: str
    recorded: Any
    actual: Any


class Bindings:
    """
    The values that placeholders stand for in one run of one scenario.

    *given* are known from the start; *tolerance* seconds are allowed where a remaining time is shown.
    """

    def __init__(self, given: Mapping[str, str], *, tolerance: int = 0) -> None:
        self._values = dict(given)
        self.tolerance = tolerance

    def fill(self, value: Any) -> Any:
        """Return *value* with all known placeholders replaced, also in keys."""
        if isinstance(value, str):
            return _PLACEHOLDER.sub(lambda found: self._values.get(found[0], found[0]), value)
        if isinstance(value, list):
            return [self.fill(one) for one in value]
        if isinstance(value, dict):
            return {self.fill(key): self.fill(one) for key, one in value.items()}
        return value

    def differences(self, recorded: Any, actual: Any, place: str = "body") -> Iterator[Difference]:
        """Yield where *actual* is not what was *recorded*, and bind the placeholders that are met first."""
        if isinstance(recorded, dict) and isinstance(actual, dict):
            yield from self._of_objects(recorded, actual, place)
        elif isinstance(recorded, list) and isinstance(actual, list) and len(recorded) == len(actual):
            for number, (one, other) in enumerate(zip(recorded, actual, strict=True)):
                yield from self.differences(one, other, f"{place}[{number}]")
        elif isinstance(recorded, str) and isinstance(actual, str) and recorded != _UNIX:
            if not self._same_text(recorded, actual):
                yield Difference(place, self.fill(recorded), actual)
        elif self._capped_by_moments(recorded, actual):
            return
        elif not self._same_value(recorded, actual, place):
            yield Difference(place, self.fill(recorded), actual)

    def _of_objects(self, recorded: dict[str, Any], actual: dict[str, Any], place: str) -> Iterator[Difference]:
        # Values first: a key may be a placeholder that a value binds.
        named = {self.fill(key): value for key, value in recorded.items()}
        for key in [key for key in named if _PLACEHOLDER.search(key) and key not in actual]:
            fitting = [other for other in actual if other not in named and self._same_text(key, other)]
            if fitting:
                named[fitting[0]] = named.pop(key)
        missing, more = sorted(set(named) - set(actual)), sorted(set(actual) - set(named))
        if missing or more:
            yield Difference(f"{place} keys", {"only recorded": missing}, {"only here": more})
        for key, value in named.items():
            if key not in actual:
                continue
            if _FREE.fullmatch(key) and not (key == "version" and isinstance(value, int)):
                if type(value) is not type(actual[key]) and value != _UNIX:
                    yield Difference(f"{place}.{key}", value, actual[key])
                continue
            yield from self.differences(value, actual[key], f"{place}.{key}")

    def _capped_by_moments(self, recorded: Any, actual: Any) -> bool:
        """Tell whether one has a warning that the other lacks: of a TTL that was capped by what may be allowed."""
        warnings = recorded or actual
        if not self.tolerance or {recorded is None, actual is None} != {True, False} or not isinstance(warnings, list):
            return False
        found = [re.match(r'TTL of "([^"]+)" exceeded the ' + _QUOTED_SECONDS.pattern, str(one)) for one in warnings]
        return all(one is not None and _seconds(one[1]) - _quoted(one[0]) <= self.tolerance for one in found)

    def _same_value(self, recorded: Any, actual: Any, place: str) -> bool:
        if recorded == _UNIX:
            return isinstance(actual, int) and not isinstance(actual, bool) and actual > 1_000_000_000
        if type(recorded) is not type(actual):
            return False
        if isinstance(recorded, int) and place.rpartition(".")[2] in _TIMES:
            return abs(recorded - actual) <= self.tolerance
        return bool(recorded == actual)

    def _same_text(self, recorded: str, actual: str) -> bool:
        if any({recorded, actual} <= race for race in _RACES):
            return True
        if _FIRST_WORDS in recorded and _FIRST_WORDS in actual:
            # What follows are the driver's words.
            recorded, actual = recorded.partition(_FIRST_WORDS)[0], actual.partition(_FIRST_WORDS)[0]
        if self.tolerance and _QUOTED_SECONDS.search(recorded) and _QUOTED_SECONDS.search(actual):
            if abs(_quoted(recorded) - _quoted(actual)) > self.tolerance:
                return False
            recorded, actual = (_QUOTED_SECONDS.sub(r"\1\5", text) for text in (recorded, actual))
        pattern, names = self._pattern(recorded)
        found = re.fullmatch(pattern, actual, re.DOTALL)
        if found is None:
            return False
        self._values.update(zip(names, found.groups(), strict=True))
        return True

    def _pattern(self, text: str) -> tuple[str, list[str]]:
        """Return *text* as a pattern, and the placeholders that its groups will bind."""
        pattern, names, position = "", [], 0
        for found in _PLACEHOLDER.finditer(text):
            pattern += re.escape(text[position : found.start()])
            position = found.end()
            kind, size, label = found.groups()
            if found[0] in self._values:
                pattern += re.escape(self._values[found[0]])
            elif kind in {"nil", "a"}:
                pattern += re.escape(found[0])
            else:
                form = _FORMS.get(f"{kind}:{label}") or _FORMS.get(kind + size) or _FORMS.get(kind, r".+?")
                form = form % size if "%s" in form else form
                bound = label is not None and label.isdigit() and found[0] not in names
                pattern += f"({form})" if bound else f"(?:{form})"
                names += [found[0]] * bound
        return pattern + re.escape(text[position:]), names


def _quoted(text: str) -> int:
    found = _QUOTED_SECONDS.search(text)
    assert found is not None
    return _seconds(found[0].partition('"')[2].rstrip('"'))


def _seconds(text: str) -> int:
    """Return the seconds of a duration such as 1h30m5s."""
    parts = re.findall(r"(\d+)([hms])", text)
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


def odd_shapes(shapes: Mapping[str, str], body: Any) -> Iterator[Difference]:
    """Yield the random values of *body* that lack the recorded form; *shapes* has names of fields and descriptions."""
    for name, shape in shapes.items():
        for value in _values(body, "token" if name == "wrap_token" else name):
            if not _has_shape(value, shape):
                yield Difference(f"shape of {name}", shape, f"{len(value)} characters")


def _values(body: Any, name: str) -> Iterator[str]:
    if isinstance(body, dict):
        for key, value in body.items():
            if key == name and isinstance(value, str) and value:
                yield value
            else:
                yield from _values(value, name)


def _has_shape(value: str, shape: str) -> bool:
    if shape == "as asked":
        return True
    if shape.startswith("request path"):
        return re.fullmatch(r".+/[A-Za-z0-9]{24}(\.\w+)?", value) is not None
    described = re.match(r"(?:(\w+\.) \+ )?(\d+) characters(?:: (.*))?", shape)
    if described is None:
        return True
    prefix, size, classes = described[1] or "", int(described[2]), described[3] or ""
    if prefix in {"b.", "hvb."}:
        # Batch tokens hold their own content, encrypted; the length follows it.
        return value.startswith(prefix)
    expected = {"lower": r"[a-z]", "upper": r"[A-Z]", "digit": r"\d", "dash": "-"}
    fits = all(re.search(expected[name], value) for name in classes.split(",") if name in expected)
    return fits and value.startswith(prefix) and len(value) == len(prefix) + size
