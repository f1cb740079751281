"""
The key/value engine, version 1: a path, its fields, and nothing else.

vault: the plugin ``vault-plugin-secrets-kv``, ``passthrough.go``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import refused
from vault_pool.devserver.framework import Fields, Reply, Request, Route, keys
from vault_pool.devserver.values import BadDurationError, parse_duration

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core


class KvEngine:
    """
    Fields by path; the last write counts.
    """

    kind: Final = "kv"
    open_paths: Final[Sequence[str]] = ()
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._kept: dict[str, Mapping[str, Any]] = {}
        operations = {"read": self._read, "update": self._write, "delete": self._delete, "list": self._list}
        self.routes: Sequence[Route] = (
            Route(
                pattern="(?P<path>.*)",
                operations=operations,
                exists=lambda _request, fields: fields.text("path") in self._kept,
                any_field=True,
            ),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """

    def _read(self, request: Request, fields: Fields) -> Reply | None:
        """
        Return the fields, with a lease duration and no lease: that of the field `ttl`, or the mount's default.
        """
        found = self._kept.get(fields.text("path"))
        if found is None:
            return None
        duration = self._core.limits(request.mount_point).default
        with contextlib.suppress(BadDurationError):
            duration = parse_duration(found["ttl"]) if "ttl" in found else duration
        return Reply(data=dict(found), lease_duration=duration)

    def _write(self, request: Request, fields: Fields) -> None:
        if not request.data:
            raise refused("missing data fields")
        self._kept[fields.text("path")] = dict(request.data)

    def _delete(self, _request: Request, fields: Fields) -> None:
        self._kept.pop(fields.text("path"), None)

    def _list(self, _request: Request, fields: Fields) -> Reply | None:
        return children(self._kept, fields.text("path"))


def children(paths: Mapping[str, Any], prefix: str) -> Reply | None:
    """
    Return the answer to a list of what lies directly below *prefix*; folders end in a slash.
    """
    found: set[str] = set()
    for path in paths:
        if path.startswith(prefix):
            name, slash, _ = path[len(prefix) :].partition("/")
            found.add(name + slash)
    return keys(list(found))
