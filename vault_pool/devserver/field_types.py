"""
The types of fields, and what Go makes of a JSON value that has another.

vault: ``sdk/framework/field_data.go``, whose decoder (mapstructure) converts weakly; its texts differ by its version,
so each type is called with the flavor. JSON numbers are texts to it (``json.Number``). Null is the type's zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from vault_pool.devserver.flavor import VAULT, Flavor
from vault_pool.devserver.values import BadDurationError, parse_duration

Converter: TypeAlias = Callable[[Any, Flavor], Any]

_TRUE: Final = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE: Final = {"", "0", "f", "F", "false", "FALSE", "False"}


class BadValueError(ValueError):
    """
    A value cannot be converted; the message is Go's.
    """


def show_go(value: Any) -> str:
    """
    Return *value* as Go's ``%v`` prints a decoded JSON value.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + " ".join(show_go(part) for part in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{name}:{show_go(value[name])}" for name in sorted(value)) + "]"
    return "<nil>" if value is None else str(value)


def kind_of(value: Any) -> str:
    """
    Return Go's name for the type of a decoded JSON value.
    """
    names = {list: "[]interface {}", dict: "map[string]interface {}", bool: "bool", str: "string", type(None): "<nil>"}
    return names.get(type(value), "json.Number")


def ANY(value: Any, _flavor: Flavor) -> Any:  # noqa: N802 - a field type, like those below
    """
    Take the value as it is.
    """
    return value


def TEXT(value: Any, flavor: Flavor) -> str:  # noqa: N802
    """
    Return a string; numbers become their text, true becomes 1.
    """
    return _text(value, flavor, "string")


def FLAG(value: Any, flavor: Flavor) -> bool:  # noqa: N802
    """
    Return a boolean, by the words of Go's ``strconv.ParseBool``.
    """
    if isinstance(value, bool):
        return value
    text = _text(value, flavor, "bool")
    if text not in _TRUE | _FALSE:
        raise BadValueError(_unparsed(text, flavor, "bool", "ParseBool"))
    return text in _TRUE


def NUMBER(value: Any, flavor: Flavor) -> int:  # noqa: N802
    """
    Return an integer, by the rules of Go's ``strconv.ParseInt``.
    """
    text = _text(value, flavor, "int")
    try:
        return int(text or "0", 0) if text.lstrip("+-").lower().startswith("0x") else int(text or "0")
    except ValueError:
        raise BadValueError(_unparsed(text, flavor, "int", "ParseInt")) from None


def FLOAT(value: Any, flavor: Flavor) -> float:  # noqa: N802
    """
    Return a number, by the rules of Go's ``strconv.ParseFloat``.
    """
    text = _text(value, flavor, "float64")
    try:
        return float(text or "0")
    except ValueError:
        raise BadValueError(_unparsed(text, flavor, "float64", "ParseFloat")) from None


def SECONDS(value: Any, _flavor: Flavor) -> int:  # noqa: N802
    """
    Return a duration in whole seconds, which must not be negative.
    """
    seconds = 0 if value is None else parse_duration(value)
    if seconds < 0:
        raise BadDurationError(f"cannot provide negative value '{seconds}'")
    return seconds


def SIGNED_SECONDS(value: Any, _flavor: Flavor) -> int:  # noqa: N802
    """
    Return a duration in whole seconds, which may be negative.
    """
    return 0 if value is None else parse_duration(value)


def NUMBERS(value: Any, flavor: Flavor) -> list[int]:  # noqa: N802
    """
    Return a list of integers; a text is cut at its commas.
    """
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [NUMBER(part, flavor) for part in parts if part != ""]


def LIST(value: Any, flavor: Flavor) -> list[str]:  # noqa: N802
    """
    Return a list of strings; a single one is a list of one.
    """
    if value in (None, "", {}):
        return []
    parts = value if isinstance(value, list) else [value]
    return [_text(part, flavor, "string", place=f"[{number}]") for number, part in enumerate(parts)]


def STRINGS(value: Any, _flavor: Flavor) -> list[str]:  # noqa: N802
    """
    Return a list of trimmed strings; a text is cut at its commas.
    """
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    # Another, older decoder, whose texts are the same in both products.
    return [part.strip() for part in LIST(value, VAULT)]


def PAIRS(value: Any, flavor: Flavor) -> dict[str, str]:  # noqa: N802
    """
    Return strings by name, from an object or a list of ``name=value``.
    """
    if isinstance(value, dict):
        return {name: _text(one, flavor, "string", place=f"[{name}]") for name, one in value.items()}
    parts = [""] if value == "" else LIST(value, flavor)
    for part in parts:
        if "=" not in part:
            raise BadValueError(f'invalid key pair "{part}"')
    return {name: one for name, _, one in (part.partition("=") for part in parts)}


def MAP(value: Any, flavor: Flavor) -> dict[str, Any]:  # noqa: N802
    """
    Return an object; an empty list is an empty one.
    """
    if value is None or value == []:
        return {}
    if isinstance(value, dict):
        return value
    first, place = (value[0], "[0]") if isinstance(value, list) else (value, "")
    if not flavor.openbao:
        kind = "bool" if isinstance(first, bool) else "string"
        raise BadValueError(f"'{place}' expected a map, got '{kind}'")
    raise BadValueError(_unconvertible(first, flavor, "map[string]interface {}", place))


def _text(value: Any, flavor: Flavor, wanted: str, place: str = "") -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list | dict):
        many = "decoding failed due to the following error(s):\n\n" if flavor.openbao else "1 error(s) decoding:\n\n* "
        text = _unconvertible(value, flavor, wanted, place)
        raise BadValueError(many + text if place else text)
    return str(value)


def _unconvertible(value: Any, flavor: Flavor, wanted: str, place: str) -> str:
    shown = "" if flavor.openbao else f", value: '{show_go(value)}'"
    return f"'{place}' expected type '{wanted}', got unconvertible type '{kind_of(value)}'{shown}"


def _unparsed(text: str, flavor: Flavor, wanted: str, function: str) -> str:
    if flavor.openbao:
        return f"'' cannot parse value as '{wanted}': strconv.{function}: invalid syntax"
    return f"cannot parse '' as {wanted}: strconv.{function}: parsing \"{text}\": invalid syntax"
