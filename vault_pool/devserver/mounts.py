"""
What is mounted where.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vault_pool.devserver.flavor import Flavor
from vault_pool.devserver.framework import Engine, Request
from vault_pool.devserver.lockout import Lockout
from vault_pool.devserver.ttl import SYSTEM_TTL, Limits, Wish

if TYPE_CHECKING:
    from vault_pool.devserver.leases import Lease
    from vault_pool.devserver.token_entry import Auth


@runtime_checkable
class SecretsEngine(Engine, Protocol):
    """
    An engine whose secrets have leases.
    """

    def renew(self, lease: Lease, increment: int, limits: Limits) -> Wish:
        """
        Renew what *lease* stands for; return the TTLs that its role wants now. Raise BackendError.
        """

    def revoke(self, lease: Lease) -> None:
        """
        Revoke what *lease* stands for. Raise BackendError.
        """


@runtime_checkable
class AuthEngine(Engine, Protocol):
    """
    An auth method that has a say when its tokens are renewed.
    """

    def renewed_wish(self, auth: Auth, request: Request) -> Wish | None:
        """
        Return the TTLs that the role of *auth* wants now, when *request* renews the token; None: it does not renew it.

        Raise BackendError, or an ApiError.
        """


@runtime_checkable
class LockingEngine(Engine, Protocol):
    """
    An auth method that locks out whoever logs in badly too often.
    """

    lockout: Lockout


@dataclass(slots=True, kw_only=True)
class Mount:
    """
    An engine and the path, ending in a slash, under which it answers; TTLs in seconds, 0 = the system's.

    *path* begins with that of the namespace, *namespace*.
    """

    path: str
    engine: Engine
    description: str = ""
    default_lease_ttl: int = 0
    max_lease_ttl: int = 0
    options: dict[str, str] | None = None
    tainted: bool = False
    namespace: str = ""
    lockout: dict[str, Any] = field(default_factory=dict)
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    accessor: str = ""

    def __post_init__(self) -> None:
        kind = f"auth_{self.engine.kind}" if self.is_auth else self.engine.kind
        self.accessor = f"{kind}_{secrets.token_hex(4)}"

    @property
    def is_auth(self) -> bool:
        """
        Whether this is an auth method.
        """
        return self.inner_path.startswith("auth/")

    @property
    def inner_path(self) -> str:
        """
        The path inside the namespace.
        """
        return self.path.removeprefix(self.namespace)

    @property
    def limits(self) -> Limits:
        """
        The TTLs in force. vault: a mount's value replaces the system's and may be larger.
        """
        return Limits(default=self.default_lease_ttl or SYSTEM_TTL, maximum=self.max_lease_ttl or SYSTEM_TTL)

    def show(self, flavor: Flavor) -> dict[str, Any]:
        """
        Return what `sys/mounts` and `sys/auth` show of it.
        """
        config: dict[str, Any] = {
            "default_lease_ttl": self.default_lease_ttl,
            "force_no_cache": False,
            "max_lease_ttl": self.max_lease_ttl,
        }
        if self.is_auth:
            config["token_type"] = "default-service"  # noqa: S105 - a kind, no password
        shown: dict[str, Any] = {
            "accessor": self.accessor,
            "config": config,
            "description": self.description,
            "external_entropy_access": False,
            "local": False,
            "options": self.options,
            "plugin_version": "",
            "running_plugin_version": flavor.plugin_version,
            "running_sha256": "",
            "seal_wrap": self.engine.kind == "system",
            "type": self.engine.kind,
            "uuid": self.uuid,
        }
        if self.engine.kind in {"approle", "kv"}:
            shown["deprecation_status"] = "supported"
        return shown

    def show_tune(self) -> dict[str, Any]:
        """
        Return what the mount's tune shows: the TTLs in force.
        """
        limits = self.limits
        shown: dict[str, Any] = {
            "default_lease_ttl": limits.default,
            "description": self.description,
            "force_no_cache": False,
            "max_lease_ttl": limits.maximum,
        }
        if self.is_auth:
            shown["token_type"] = "default-service"  # noqa: S105 - a kind, no password
        return shown


class MountTable:
    """
    The mounts, found by the longest matching path. Guarded by the core's lock.
    """

    def __init__(self) -> None:
        self._mounts: dict[str, Mount] = {}

    def add(self, mount: Mount) -> None:
        """
        Mount it.
        """
        self._mounts[mount.path] = mount

    def remove(self, path: str) -> None:
        """
        Forget the mount at *path*.
        """
        self._mounts.pop(path, None)

    def get(self, path: str) -> Mount | None:
        """
        Return the mount at exactly *path*.
        """
        return self._mounts.get(path)

    def rules(self, path: str) -> Mapping[str, Any]:
        """
        Return the rules of lockout of the auth method at *path*.
        """
        mount = self.find(path)
        return {} if mount is None else mount.lockout

    def all(self) -> list[Mount]:
        """
        Return all mounts.
        """
        return list(self._mounts.values())

    def find(self, path: str) -> Mount | None:
        """
        Return the mount that answers for *path*.
        """
        fitting = [mount for mount in self._mounts.values() if f"{path}/".startswith(mount.path)]
        return max(fitting, key=lambda mount: len(mount.path), default=None)

    def conflict(self, path: str) -> Mount | None:
        """
        Return a mount that is in the way of a new one at *path*.
        """
        return next(
            (one for one in self._mounts.values() if one.path.startswith(path) or path.startswith(one.path)), None
        )
