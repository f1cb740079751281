"""
What the versioned key/value engine keeps: secrets, their versions, and settings for all of them.

vault: the plugin ``vault-plugin-secrets-kv``, ``path_data.go`` and ``path_metadata.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vault_pool.devserver.values import show_time

_DEFAULT_VERSIONS: Final = 10


@dataclass(slots=True, kw_only=True)
class Settings:
    """
    The settings of an engine, or of one secret; *delete_version_after* in seconds, negative: never.
    """

    max_versions: int = 0
    cas_required: bool = False
    metadata_cas_required: bool = False
    delete_version_after: int = 0

    def change(self, sent: Mapping[str, Any]) -> None:
        """
        Take over what was sent.
        """
        for name, value in sent.items():
            setattr(self, name, value)

    def show(self, *, openbao: bool) -> dict[str, Any]:
        """
        Return what a read shows.
        """
        shown = {
            "max_versions": self.max_versions,
            "cas_required": self.cas_required,
            "delete_version_after": show_go_duration(max(0, self.delete_version_after)),
        }
        return shown | ({"metadata_cas_required": self.metadata_cas_required} if openbao else {})


@dataclass(slots=True, kw_only=True)
class Version:
    """
    One version; *deletion* is when it is, or was, deleted; *data* is gone for good once *destroyed*.
    """

    data: Mapping[str, Any] = field(repr=False)
    created: float
    deletion: float | None = None
    destroyed: bool = False

    def readable(self, now: float) -> bool:
        """
        Tell whether its data may be seen.
        """
        return not self.destroyed and (self.deletion is None or self.deletion > now)

    def show(self) -> dict[str, Any]:
        """
        Return what every answer about it shows.
        """
        return {
            "created_time": show_time(self.created, utc=True),
            "deletion_time": show_time(self.deletion, utc=True) or "",
            "destroyed": self.destroyed,
        }


@dataclass(slots=True, kw_only=True)
class KvSecret:
    """
    A secret: its versions by number, and its metadata.
    """

    settings: Settings = field(default_factory=Settings)
    versions: dict[int, Version] = field(default_factory=dict)
    current: int = 0
    oldest: int = 0
    created: float = 0.0
    updated: float = 0.0
    metadata_version: int = 0
    custom: Mapping[str, str] | None = None

    def version(self, number: int) -> Version | None:
        """
        Return the version *number*; 0 is the newest.
        """
        return self.versions.get(number or self.current)

    def add(self, data: Mapping[str, Any], now: float, engine: Settings) -> None:
        """
        Make a new version, and drop those that are too many. vault: ``KeyMetadata.AddVersion``.
        """
        self.current += 1
        self.versions[self.current] = Version(data=data, created=now, deletion=self.deletion_after(now, engine))
        self.updated, self.created = now, self.created or now
        most = max(self.settings.max_versions, engine.max_versions) or _DEFAULT_VERSIONS
        if self.current - self.oldest >= most:
            self.oldest = self.current - most + 1
            self.versions = {number: one for number, one in self.versions.items() if number >= self.oldest}

    def deletion_after(self, now: float, engine: Settings) -> float | None:
        """
        Return when a version that is made, or undeleted, now will be deleted. The shorter of two settings counts.
        """
        wanted = [one for one in (engine.delete_version_after, self.settings.delete_version_after) if one > 0]
        return now + min(wanted) if wanted and engine.delete_version_after >= 0 else None

    def show_version(self, number: int) -> dict[str, Any]:
        """
        Return the metadata of a version as reads and writes of data show it.
        """
        number = number or self.current
        return {**self.versions[number].show(), "custom_metadata": self.custom, "version": number}

    def show(self, *, openbao: bool) -> dict[str, Any]:
        """
        Return what a read of the metadata shows.
        """
        shown = {
            **self.settings.show(openbao=openbao),
            "created_time": show_time(self.created, utc=True),
            "current_version": self.current,
            "custom_metadata": self.custom,
            "oldest_version": self.oldest,
            "updated_time": show_time(self.updated, utc=True),
            "versions": {str(number): one.show() for number, one in self.versions.items()},
        }
        return shown | ({"current_metadata_version": self.metadata_version} if openbao else {})


def show_go_duration(seconds: int) -> str:
    """
    Return *seconds* as Go's ``Duration.String``: 0s, 1m30s, 24h0m0s.
    """
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def merge_patch(target: Any, patch: Any) -> Any:
    """
    Return *target* changed by *patch*: RFC 7396, where null removes.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def without_values(data: Any, depth: int) -> Any:
    """
    Return the names in *data*, *depth* levels of them (0: all), with null for each value.
    """
    if not isinstance(data, dict) or not data or depth < 0:
        return None
    return {name: without_values(value, depth - 1 if depth > 1 else -depth) for name, value in data.items()}
