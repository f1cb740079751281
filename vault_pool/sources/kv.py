"""
A credential that somebody writes into Vault's key/value store.
"""

from __future__ import annotations

from typing import Any

from vault_pool.errors import ConfigurationError, VaultRefused, fold
from vault_pool.sources.base import Issued
from vault_pool.sources.polled import PolledInVault, checked_field, checked_interval, credential_in
from vault_pool.vault.answer import Answer
from vault_pool.vault.client import Vault
from vault_pool.vault.paths import checked_mount_point, checked_path

_LEAST_INTERVAL = 1.0
_VERSIONS = (1, 2)


class KV(PolledInVault):
    """
    A source that reads a secret of a KV store (version 1 or 2) every *interval* seconds, spread by a tenth.

    *user_field* and *password_field* name the secret's fields. When they change, by a new version or a write, the
    pool is replaced. A deleted or destroyed version is an error; the credential that is known serves on.

    Thread-safe. `read` raises `VaultPoolError` only.
    """

    def __init__(
        self,
        path: str,
        *,
        vault: Vault,
        mount_point: str = "secret",
        version: int = 2,
        user_field: str = "username",
        password_field: str = "password",  # noqa: S107 - the name of a field
        interval: float = 60.0,
    ) -> None:
        words = checked_path(path)
        if isinstance(version, bool) or version not in _VERSIONS:
            raise ConfigurationError(f"version must be 1 or 2, that of the KV store, not {version!r}")
        self._mount_point = checked_mount_point(mount_point, "a KV store")
        self._versioned = version == 2
        self._path = f"{self._mount_point}/data/{words}" if self._versioned else f"{self._mount_point}/{words}"
        self._words = words
        super().__init__(self._path, vault)
        self._user_field = checked_field("user_field", user_field)
        self._password_field = checked_field("password_field", password_field)
        self._interval = checked_interval(interval, _LEAST_INTERVAL)

    def read(self, now: float) -> Issued:
        """
        Return the credential as it is written now.
        """
        problem: VaultRefused | None = None
        try:
            answer = self._vault.call("GET", self._path)
        except VaultRefused as error:
            problem = error
        if problem is not None:
            raise self._explained(problem)
        # In a call: this frame must not hold the fields in clear when an error leaves it.
        credential = credential_in(self._fields(answer), self._user_field, self._password_field)
        if credential is None:
            raise VaultRefused(self._reason(answer), status=answer.status)
        return self._polled(credential, now, self._interval)

    def _fields(self, answer: Answer) -> Any:
        return answer.data.get("data") if self._versioned else answer.body.get("data")

    def _explained(self, error: VaultRefused) -> VaultRefused:
        if error.status != 404:
            return error
        other = "version=1, if it is a KV store of that version" if self._versioned else "version=2, if it is one"
        remedy = f"check path and mount_point ({self._mount_point}), or set {other}"
        for prefix in ("data", self._mount_point):
            if self._words.startswith(f"{prefix}/"):
                remedy = f"leave {prefix}/ out of path, if it is no part of the secret's own name; else {remedy}"
        return VaultRefused(f"Vault has no secret at {self._path}: {remedy}", status=error.status)

    def _reason(self, answer: Answer) -> str:
        """
        Return why *answer* has no credential.
        """
        warnings = answer.body.get("warnings") or []
        if "versioned" in fold(warnings):
            return f"{self._mount_point} is a KV store of version 2: set version=2"
        metadata = answer.data.get("metadata")
        if self._versioned and isinstance(metadata, dict) and answer.data.get("data") is None:
            number = metadata.get("version")
            if metadata.get("destroyed"):
                return f"version {number} of {self._path} was destroyed: write a new one"
            return f"version {number} of {self._path} was deleted: undelete it, or write a new one"
        if self._versioned and metadata is None:
            return f"{self._path} is no secret of a KV store of version 2: set version=1"
        if not self._versioned and isinstance(metadata, dict) and self._words.startswith("data/"):
            return f"{self._path} is a secret of a KV store of version 2: set version=2, and leave data/ out of path"
        return (
            f"{self._path} has no text in {self._user_field!r} or in {self._password_field!r}: "
            "set user_field and password_field to the names of its fields"
        )
