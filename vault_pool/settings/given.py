"""
The settings that somebody gave, with the names by which they know them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from vault_pool.errors import ConfigurationError
from vault_pool.settings.table import SECTIONS, SELECTORS, SETTINGS, Section, Setting, takes

_OTHER_NAMES = {"url": "conninfo", "dsn": "conninfo", "database_url": "conninfo", "database": "conninfo"}
# Below this two names have little to do with each other; above the other one, nobody means another setting.
_ALIKE = 0.6
_TYPING_ERROR = 0.85


class Given:
    """
    The settings in *mapping* whose keys begin with *prefix*, by name; upper and lower case are the same.

    A key that is no setting raises `ConfigurationError`; without *strict* only if it looks like a mistyped one, since
    others may share the prefix. None is as good as nothing, except where it is a value of its own.
    No method that raises has a value in its locals that it would not show: the errors are for the caller to rephrase.
    """

    def __init__(self, mapping: Mapping[str, Any], prefix: str = "", *, strict: bool = True) -> None:
        self._prefix = prefix
        self._values: dict[str, Any] = {}
        self._keys: dict[str, str] = {}
        for key, value in mapping.items():
            if not isinstance(key, str):
                raise ConfigurationError(f"the names of settings are texts, not {type(key).__name__}")
            if key.startswith(prefix):
                self._take(key, value, strict=strict)
        self._capitals = prefix.isupper() or (bool(self._keys) and all(key.isupper() for key in self._keys.values()))

    def _take(self, key: str, value: Any, *, strict: bool) -> None:
        name = key.removeprefix(self._prefix).lower()
        if name not in SETTINGS:
            self._unknown(key, name, strict=strict)
            return
        if name in self._keys:
            raise ConfigurationError(f"{self._keys[name]} and {key} are the same setting: remove one of them")
        self._keys[name] = key
        self._values[name] = value

    def _unknown(self, key: str, name: str, *, strict: bool) -> None:
        self._capitals = key.isupper()
        close = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=_ALIKE if strict else _TYPING_ERROR)
        meant = close[:1] or [known for known in SETTINGS if strict and known.endswith(f"_{name}")][:1]
        if strict and name in _OTHER_NAMES:
            meant = [_OTHER_NAMES[name]]
        if meant:
            raise ConfigurationError(f"{key} is no setting: did you mean {self.spelled(meant[0])}?")
        if strict:
            raise ConfigurationError(f"{key} is no setting: `python -m vault_pool.settings` lists them")

    def spelled(self, name: str) -> str:
        """
        Return the key of a setting as it was given, or as it would have to be.
        """
        return self._keys.get(name) or self._prefix + (name.upper() if self._capitals else name)

    def value(self, row: Setting) -> Any:
        """
        Return the value of a setting that was given; raise `ConfigurationError` where it is none.
        """
        value = self._values[row.name]
        try:
            return row.kind.parse(value)
        except ValueError as error:
            raise ConfigurationError(self._misfit(row, value, str(error))) from None

    def _misfit(self, row: Setting, value: Any, why: str) -> str:
        text = f"{self.spelled(row.name)} must be {row.kind.words}"
        if why:
            return f"{text}: {why}"
        if isinstance(value, Mapping):
            return f"{text}, not a mapping: settings are flat, as {self.spelled('vault_address')}"
        # A text may be a secret that somebody put into the wrong place.
        return f"{text}, not {value!r}" if isinstance(value, (int, float)) and not row.secret else text

    def has(self, name: str) -> bool:
        """
        Return whether a setting was given.
        """
        if name not in self._values:
            return False
        row = SETTINGS[name]
        return self._values[name] is not None or (row.default is not None and _takes_none(row))

    def names(self, *sections: Section) -> list[str]:
        """
        Return which settings of *sections* were given.
        """
        return [row.name for section in sections for row in SECTIONS[section] if self.has(row.name)]

    def arguments(self, section: Section, chosen: str = "") -> dict[str, Any]:
        """
        Return what was given of the constructor's arguments; *chosen* is the source or the login that is to take them.
        """
        return {row.argument: self.value(row) for row in self._given(section) if takes(row, chosen)}

    def _given(self, section: Section) -> Iterator[Setting]:
        return (row for row in SECTIONS[section] if self.has(row.name) and row.name not in SELECTORS)

    def misplaced(self, section: Section, chosen: str) -> list[Setting]:
        """
        Return what was given for other sources or logins than the *chosen* one.
        """
        return [row for row in self._given(section) if not takes(row, chosen)]


def _takes_none(row: Setting) -> bool:
    try:
        return row.kind.parse(None) is None
    except ValueError:
        return False
