"""
Durations, instants and random names in the forms that Vault reads and writes.
"""

from __future__ import annotations

import re
import secrets
import string
from datetime import datetime, timezone
from typing import Final

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)([a-zµ]+)")
_NUMBER: Final = re.compile(r"[-+]?\d+")
_BASE62: Final = string.ascii_letters + string.digits


class BadDurationError(ValueError):
    """
    A text is no duration; the message is Go's.
    """


def parse_duration(value: object) -> int:
    """
    Return the whole seconds that *value* stands for; it may be negative.

    vault: ``parseutil.ParseDurationSecond``: integers and their strings are seconds, else Go's notation or days ("1d");
    fractions of a second are cut; a JSON fraction arrives as its text and has no unit.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadDurationError("could not parse duration from input")
    text = value if isinstance(value, str) else repr(value)
    if text == "":
        return 0
    if _NUMBER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text[:-1]) and text.endswith("d"):
        return int(text[:-1]) * 86400
    return int(_go_duration(text))


def _go_duration(text: str) -> float:
    sign, rest = (-1.0, text[1:]) if text[:1] == "-" else (1.0, text.removeprefix("+"))
    total, position = 0.0, 0
    while match := _PART.match(rest, position):
        if match[2] not in _UNITS:
            raise BadDurationError(f'time: unknown unit "{match[2]}" in duration "{text}"')
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if position == len(rest) > 0:
        return sign * total
    if re.fullmatch(r"\d+\.?\d*|\.\d+", rest[position:]):
        raise BadDurationError(f'time: missing unit in duration "{text}"')
    raise BadDurationError(f'time: invalid duration "{text}"')


def show_duration(seconds: int) -> str:
    """
    Return whole *seconds* as Vault's warnings print them: "768h", "1m30s", "5s".
    """
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    shown = "".join(f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if number)
    return shown if not (hours and rest and not minutes) else f"{hours}h0m{rest}s"


def show_time(instant: float | None, *, whole_seconds: bool = False, utc: bool = False) -> str | None:
    """
    Return *instant* as RFC3339Nano in the server's zone, or in UTC; None stays None.
    """
    if instant is None:
        return None
    moment = datetime.fromtimestamp(int(instant) if whole_seconds else instant, tz=timezone.utc)
    moment = moment if utc else moment.astimezone()
    fraction = "" if whole_seconds else f"{instant % 1:.9f}"[1:].rstrip("0").rstrip(".")
    offset = moment.strftime("%z")
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}{zone}"


def round_half_up(instant: float) -> int:
    """
    Return the nearest whole second, as Go's ``Time.Round`` does.
    """
    return int(instant + 0.5)


def base62(length: int) -> str:
    """
    Return a random text of letters and digits.
    """
    return "".join(secrets.choice(_BASE62) for _ in range(length))
