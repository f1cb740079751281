"""
The key/value engine, version 2: every write makes a version, which can be deleted, brought back and destroyed.

vault: the plugin ``vault-plugin-secrets-kv``: ``path_data.go``, ``path_metadata.go``, ``path_delete.go``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import refused
from vault_pool.devserver.field_types import FLAG, MAP, NUMBER, NUMBERS, SECONDS, SIGNED_SECONDS, TEXT
from vault_pool.devserver.flavor import VAULT
from vault_pool.devserver.framework import Fields, Reply, Request, Route
from vault_pool.devserver.kv import children
from vault_pool.devserver.kv_secret import KvSecret, Settings, Version, merge_patch, without_values

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_VERBS: Final = {"read": "get", "update": "put", "create": "put", "delete": "delete", "list": "list", "patch": "patch"}
_SETTINGS: Final = {"max_versions": NUMBER, "cas_required": FLAG, "metadata_cas_required": FLAG}
_METADATA_FIELDS: Final = {**_SETTINGS, "delete_version_after": SECONDS, "custom_metadata": MAP, "metadata_cas": NUMBER}
_PATHS: Final = "data|metadata|delete|undelete|destroy|subkeys"
_MOST_CUSTOM: Final = 64


class VersionedKvEngine:
    """
    Versions of fields by path. In development mode one is mounted at `secret/`. Thread-safe.
    """

    kind: Final = "kv"
    open_paths: Final[Sequence[str]] = ()
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.RLock()
        self._secrets: dict[str, KvSecret] = {}
        self._settings = Settings()
        self.routes: Sequence[Route] = (
            Route(
                pattern="config",
                fields={**_SETTINGS, "delete_version_after": SIGNED_SECONDS},
                operations={"read": self._read_config, "update": self._write_config},
            ),
            Route(
                pattern="data/(?P<path>.+)",
                fields={"data": MAP, "options": MAP, "version": NUMBER},
                operations={"read": self._read, "update": self._write, "patch": self._patch, "delete": self._delete},
                exists=self._exists,
            ),
            Route(
                pattern="metadata/(?P<path>.*)",
                fields=_METADATA_FIELDS,
                operations={
                    "list": lambda _request, fields: children(self._secrets, fields.text("path")),
                    "read": self._read_metadata,
                    "update": self._write_metadata,
                    "patch": self._patch_metadata,
                    "delete": self._delete_metadata,
                },
                exists=self._exists,
            ),
            *(
                Route(pattern=f"{verb}/(?P<path>.*)", fields={"versions": NUMBERS}, operations={"update": self._on(do)})
                for verb, do in (("delete", self._hide), ("undelete", self._restore), ("destroy", _destroy))
            ),
            Route(
                pattern="subkeys/(?P<path>.+)",
                fields={"version": NUMBER, "depth": NUMBER},
                operations={"read": self._subkeys},
            ),
            Route(
                pattern=f"(?!(?:{_PATHS})/)(?P<path>.*)",
                operations=dict.fromkeys(_VERBS, self._lost),
                any_field=True,
            ),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """

    def _exists(self, _request: Request, fields: Fields) -> bool:
        return fields.text("path") in self._secrets

    def _read_config(self, _request: Request, _fields: Fields) -> Reply:
        return Reply(data=self._settings.show(openbao=self._core.flavor.openbao))

    def _write_config(self, _request: Request, fields: Fields) -> None:
        self._settings.change(fields.within((*_SETTINGS, "delete_version_after")))

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        return self._shown(fields, "data", lambda version: dict(version.data))

    def _subkeys(self, _request: Request, fields: Fields) -> Reply | None:
        return self._shown(fields, "subkeys", lambda version: without_values(version.data, fields.get("depth", 0)))

    def _shown(self, fields: Fields, name: str, show: Callable[[Version], Any]) -> Reply | None:
        """
        Return a version's metadata and what *show* makes of it; without that, as a 404, when it was deleted.
        """
        with self._lock:
            secret, number = self._secrets.get(fields.text("path")), fields.get("version", 0)
            version = None if secret is None else secret.version(number)
            if secret is None or version is None:
                return None
            readable = version.readable(self._core.clock.now())
            data = {name: show(version) if readable else None, "metadata": secret.show_version(number)}
        return Reply(data=data, status=None if readable else 404)

    def _write(self, _request: Request, fields: Fields) -> Reply:
        if not fields.sent("data"):
            raise refused("no data provided")
        with self._lock:
            secret = self._secrets.get(fields.text("path")) or KvSecret()
            self._check_and_set(secret, fields)
            secret.add(fields.get("data"), self._core.clock.now(), self._settings)
            self._secrets[fields.text("path")] = secret
            return Reply(data=secret.show_version(0))

    def _patch(self, _request: Request, fields: Fields) -> Reply:
        if not fields.sent("data"):
            raise refused("no data provided")
        with self._lock:
            secret = self._secrets.get(fields.text("path"))
            if secret is None:
                return Reply(status=404)
            self._check_and_set(secret, fields)
            version, now = secret.version(0), self._core.clock.now()
            if version is None:
                return Reply(status=404)
            if not version.readable(now):
                return Reply(data=secret.show_version(0), status=404)
            secret.add(merge_patch(version.data, fields.get("data")), now, self._settings)
            return Reply(data=secret.show_version(0))

    def _check_and_set(self, secret: KvSecret, fields: Fields) -> None:
        """
        Refuse a write that expects another version than the newest. vault: ``validateCheckAndSetOption``.
        """
        options: Mapping[str, Any] = fields.get("options", {})
        if "cas" not in options:
            if secret.settings.cas_required or self._settings.cas_required:
                raise refused("check-and-set parameter required for this call")
            return
        try:
            wanted = NUMBER(options["cas"], VAULT)
        except ValueError:
            raise refused("error parsing check-and-set parameter") from None
        if wanted != secret.current:
            raise refused("check-and-set parameter did not match the current version")

    def _delete(self, _request: Request, fields: Fields) -> None:
        with self._lock:
            secret = self._secrets.get(fields.text("path"))
            version = None if secret is None else secret.version(0)
            if secret is not None and version is not None:
                self._hide(secret, version)

    def _on(self, do: Callable[[KvSecret, Version], None]) -> Callable[[Request, Fields], None]:
        """
        Return the handler that does *do* to each of the versions that were named.
        """

        def handle(_request: Request, fields: Fields) -> None:
            if not fields.get("versions"):
                raise refused("No version number provided")
            with self._lock:
                secret = self._secrets.get(fields.text("path"))
                for number in fields.get("versions"):
                    version = None if secret is None else secret.versions.get(number)
                    if secret is not None and version is not None and not version.destroyed:
                        do(secret, version)

        return handle

    def _hide(self, _secret: KvSecret, version: Version) -> None:
        now = self._core.clock.now()
        if version.readable(now):
            version.deletion = now

    def _restore(self, secret: KvSecret, version: Version) -> None:
        version.deletion = secret.deletion_after(self._core.clock.now(), self._settings)

    def _read_metadata(self, _request: Request, fields: Fields) -> Reply | None:
        secret = self._secrets.get(fields.text("path"))
        return None if secret is None else Reply(data=secret.show(openbao=self._core.flavor.openbao))

    def _write_metadata(self, _request: Request, fields: Fields) -> None:
        if not fields.text("path"):
            raise refused("missing path")
        if not fields.within(tuple(_METADATA_FIELDS)):
            return
        custom = _checked_custom(fields.get("custom_metadata", {}))
        now = self._core.clock.now()
        with self._lock:
            secret = self._secrets.get(fields.text("path"))
            self._check_metadata_cas(secret, fields)
            if secret is None:
                secret = self._secrets[fields.text("path")] = KvSecret(created=now)
            secret.settings.change(fields.within((*_SETTINGS, "delete_version_after")))
            secret.custom = custom if fields.sent("custom_metadata") else secret.custom
            secret.metadata_version, secret.updated = secret.metadata_version + 1, now

    def _patch_metadata(self, _request: Request, fields: Fields) -> Reply | None:
        sent: Mapping[str, Any] = fields.get("custom_metadata", {})
        custom = _checked_custom({name: value for name, value in sent.items() if value is not None})
        with self._lock:
            secret = self._secrets.get(fields.text("path"))
            if secret is None:
                return Reply(status=404)
            self._check_metadata_cas(secret, fields)
            secret.settings.change(fields.within((*_SETTINGS, "delete_version_after")))
            kept = {name: value for name, value in (secret.custom or {}).items() if name not in sent}
            secret.custom = {**kept, **custom} or None
            secret.metadata_version, secret.updated = secret.metadata_version + 1, self._core.clock.now()
        return None

    def _check_metadata_cas(self, secret: KvSecret | None, fields: Fields) -> None:
        required = self._settings.metadata_cas_required or (
            secret is not None and secret.settings.metadata_cas_required
        )
        if not fields.sent("metadata_cas"):
            if required:
                raise refused("metadata check-and-set parameter required for this call")
        elif secret is None and fields.get("metadata_cas") != 0:
            raise refused("metadata_cas must be 0 when creating new metadata")
        elif secret is not None and fields.get("metadata_cas") != secret.metadata_version:
            raise refused("metadata check-and-set parameter does not match the current version")

    def _delete_metadata(self, _request: Request, fields: Fields) -> None:
        self._secrets.pop(fields.text("path"), None)

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


def _destroy(_secret: KvSecret, version: Version) -> None:
    version.destroyed, version.data = True, {}


def _checked_custom(sent: Mapping[str, Any]) -> dict[str, str]:
    """
    Return metadata of the user's own, as texts. vault: ``validateCustomMetadata``, its first refusal.
    """
    failure = "custom_metadata validation failed"
    if len(sent) > _MOST_CUSTOM:
        text = f"payload must contain at most {_MOST_CUSTOM} keys, provided {len(sent)}"
        raise refused(f"1 error occurred:\n\t* {failure}: {text}\n\n")
    try:
        return {name: TEXT(value, VAULT) for name, value in sent.items()}
    except ValueError as error:
        raise refused(f"{failure}: {error}") from None
