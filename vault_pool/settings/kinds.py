"""
What the value of a setting may be, be it a Python object or the text of an environment variable.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd]?)")
_REFERENCE = re.compile(r"[\w.]+:[\w.]+", re.ASCII)


class Kind(NamedTuple):
    """
    A type of settings: its *words* for people, and what makes a value of it.

    *parse* raises ValueError, whose text is empty or says more; it never repeats the value, which may be a secret.
    """

    words: str
    parse: Callable[[Any], Any]


def _refuse(why: str = "") -> Any:
    raise ValueError(why)


def _text(value: Any) -> Any:
    return value if isinstance(value, str) and value.strip() else _refuse()


def _path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else _text(value)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*-?\d{1,18}\s*", value, re.ASCII) else _refuse()
    return value if isinstance(value, int) and not isinstance(value, bool) else _refuse()


def _number(value: Any) -> Any:
    if isinstance(value, str):
        value = float(value) if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value, re.ASCII) else _refuse()
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else _refuse()


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return _number(value)
    parts = _DURATION.findall(value)
    # A number without a unit stands alone: "1m30" may be anything.
    plain = "".join(number + unit for number, unit in parts) == value.strip()
    good = plain and parts and (len(parts) == 1 or all(unit for _, unit in parts))
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if good else _refuse()


def _flag(value: Any) -> Any:
    word = value.strip().lower() if isinstance(value, str) else value
    if isinstance(word, bool):
        return word
    return word in _TRUE if isinstance(word, str) and word in _TRUE | _FALSE else _refuse()


def _trust(value: Any) -> Any:
    try:
        return _flag(value)
    except ValueError:
        return _path(value)


def _addresses(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_text(each) for each in value] or _refuse()
    parts = [part.strip() for part in _text(value).split(",") if part.strip()]
    return (parts[0] if len(parts) == 1 else parts) if parts else _refuse()


def _mapping(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else _refuse()


def _reference(value: Any) -> Any:
    if not isinstance(value, str):
        return value if callable(value) else _refuse()
    if not _REFERENCE.fullmatch(value):
        _refuse()
    module, _, names = value.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        _refuse(f"it cannot be loaded: {type(error).__name__}: {error}")
    return found if callable(found) else _refuse()


def optional(kind: Kind) -> Kind:
    """
    Return *kind* with None, in an environment variable the word "none", as a value of its own.
    """

    def parse(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
            return None
        return kind.parse(value)

    return Kind(f"{kind.words}, or none", parse)


def choice(*words: str) -> Kind:
    """
    Return the kind of which there are only *words*.
    """

    def parse(value: Any) -> Any:
        word = value.strip().lower() if isinstance(value, str) else None
        return word if word in words else _refuse()

    return Kind(f"one of {', '.join(words)}", parse)


def choice_or(what: Kind, *words: str) -> Kind:
    """
    Return the kind of *words* and of objects made in code.
    """
    named = choice(*words)
    return Kind(
        f"{named.words}, or {what.words}",
        lambda value: named.parse(value) if isinstance(value, str) else what.parse(value),
    )


def instance(words: str, *methods: str) -> Kind:
    """
    Return the kind of objects made in code that have *methods*.
    """
    return Kind(words, lambda value: value if all(hasattr(value, name) for name in methods) else _refuse())


TEXT = Kind("a text that is not empty", _text)
PATH = Kind("a path", _path)
WHOLE = Kind("a whole number", _whole)
NUMBER = Kind("a number", _number)
SECONDS = Kind('a duration, as 90 or "90s" or "1m30s"', _seconds)
FLAG = Kind("true or false", _flag)
TRUST = Kind("true, false, or the path of a CA file or folder", _trust)
ADDRESSES = Kind("a URL, or several by commas", _addresses)
MAPPING = Kind("a mapping, in code only", _mapping)
REFERENCE = Kind('"module:name", or the object itself', _reference)
