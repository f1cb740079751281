"""
The key/value engine, version 2: every write makes a version.

vault: the plugin ``vault-plugin-secrets-kv``, ``backend.go`` and ``path_data.go``. So far: writing and reading data,
and listing; not yet deletion, metadata and check-and-set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import refused
from vault_pool.devserver.field_types import ANY, NUMBER
from vault_pool.devserver.framework import Fields, Reply, Request, Route
from vault_pool.devserver.kv import children
from vault_pool.devserver.values import show_time

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_VERBS: Final = {"read": "get", "update": "put", "create": "put", "delete": "delete", "list": "list", "patch": "patch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    data: Mapping[str, Any] = field(repr=False)
    number: int
    created: float

    def metadata(self) -> dict[str, Any]:
        """
        Return what a read and a write show beside the data.
        """
        return {
            "created_time": show_time(self.created),
            "custom_metadata": None,
            "deletion_time": "",
            "destroyed": False,
            "version": self.number,
        }


class VersionedKvEngine:
    """
    Versions of fields by path. In development mode one is mounted at `secret/`.
    """

    kind: Final = "kv"
    open_paths: Final[Sequence[str]] = ()
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._kept: dict[str, list[_Version]] = {}
        self.routes: Sequence[Route] = (
            Route(
                pattern="data/(?P<path>.+)",
                fields={"data": ANY, "options": ANY, "version": NUMBER},
                operations={"read": self._read, "update": self._write},
                exists=lambda _request, fields: fields.text("path") in self._kept,
            ),
            Route(pattern="metadata/(?P<path>.*)", operations={"list": self._list}),
            Route(
                pattern=r"(?!(?:data|metadata)/)(?P<path>.*)",
                operations=dict.fromkeys(_VERBS, self._lost),
                any_field=True,
            ),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        versions = self._kept.get(fields.text("path"), [])
        wanted = fields.get("version", 0) or len(versions)
        if not 1 <= wanted <= len(versions):
            return None
        found = versions[wanted - 1]
        return Reply(data={"data": dict(found.data), "metadata": found.metadata()})

    def _write(self, _request: Request, fields: Fields) -> Reply:
        if not isinstance(fields.get("data"), dict):
            raise refused("no data provided")
        with self._core.lock:
            versions = self._kept.setdefault(fields.text("path"), [])
            made = _Version(data=fields.get("data"), number=len(versions) + 1, created=self._core.clock.now())
            versions.append(made)
        return Reply(data=made.metadata())

    def _list(self, _request: Request, fields: Fields) -> Reply | None:
        return children(self._kept, fields.text("path"))

    def _lost(self, request: Request, _fields: Fields) -> Reply:
        """
        Answer a path without `data/`: a 404 with the envelope of a success.
        """
        flavor = self._core.flavor
        command = f"{flavor.command} kv {_VERBS[request.operation]}"
        warning = (
            "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to "
            f"use. If using the {flavor.product} CLI, use '{command}' for this operation."
        )
        return Reply(status=404, warnings=[warning])
