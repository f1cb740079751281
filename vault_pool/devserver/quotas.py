"""
`sys/quotas`: how many requests a client may send.

vault: ``vault/quotas/quotas_rate_limit.go``: each client address has so many requests an interval, and waits out a
block if one is configured. A quota of a whole path goes before that of its mount, and that before the global one.
Quotas of roles are not imitated.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import ApiError, refused
from vault_pool.devserver.field_types import FLAG, FLOAT, SECONDS, STRINGS, TEXT
from vault_pool.devserver.framework import Fields, Reply, Request, Route, keys

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_EXEMPT: Final = ("sys/health", "sys/seal-status", "sys/unseal")
_CONFIG_FIELDS: Final = {
    "enable_rate_limit_audit_logging": FLAG,
    "enable_rate_limit_response_headers": FLAG,
    "rate_limit_exempt_paths": STRINGS,
}
_QUOTA_FIELDS: Final = {
    "type": TEXT,
    "path": TEXT,
    "role": TEXT,
    "rate": FLOAT,
    "interval": SECONDS,
    "block_interval": SECONDS,
    "inheritable": FLAG,
}


@dataclass(slots=True)
class _Bucket:
    """
    What one client has left in the interval number *tick* since *began*.
    """

    began: float
    left: int
    tick: int = 0


@dataclass(slots=True, kw_only=True)
class _Quota:
    """
    One quota; *path* is empty for all paths, a mount's, or that with something behind it.
    """

    name: str
    path: str
    rate: float
    interval: int
    block: int
    inheritable: bool
    buckets: dict[str, _Bucket] = field(default_factory=dict)
    blocked: dict[str, float] = field(default_factory=dict)

    def covers(self, path: str) -> bool:
        """
        Tell whether a request for *path* counts.
        """
        if self.path.endswith(("/", "*")):
            return path.startswith(self.path.removesuffix("*"))
        return self.path in ("", path)

    def take(self, client: str, now: float) -> tuple[bool, dict[str, str]]:
        """
        Count a request of *client*; return whether it may pass, and the headers. vault: ``RateLimitQuota.allow``.
        """
        blocked_until = self.blocked.get(client, 0.0) + self.block
        if client in self.blocked and now < blocked_until:
            return False, {"Retry-After": _seconds(blocked_until - now)}
        self.blocked.pop(client, None)
        most = ceil(self.rate)
        bucket = self.buckets.setdefault(client, _Bucket(now, most))
        tick = int((now - bucket.began) / self.interval)
        if tick > bucket.tick:
            bucket.tick, bucket.left = tick, most
        allowed = bucket.left > 0
        bucket.left -= allowed
        reset = _seconds(bucket.began + (tick + 1) * self.interval - now)
        headers = {
            "X-Ratelimit-Limit": str(most),
            "X-Ratelimit-Remaining": str(bucket.left),
            "X-Ratelimit-Reset": reset,
        }
        if allowed:
            return True, headers
        if self.block:
            self.blocked[client] = now
            return False, headers | {"Retry-After": _seconds(self.block)}
        return False, headers | {"Retry-After": reset}

    def show(self, *, openbao: bool) -> dict[str, Any]:
        """
        Return what a read shows.
        """
        shown: dict[str, Any] = {
            "block_interval": self.block,
            "interval": self.interval,
            "name": self.name,
            "path": self.path,
            "rate": int(self.rate) if self.rate.is_integer() else self.rate,
            "role": "",
            "type": "rate-limit",
        }
        return shown | ({"inheritable": self.inheritable} if openbao else {})


def _seconds(left: float) -> str:
    """
    Return *left* seconds as they are a moment later, cut to whole ones.
    """
    return str(max(0, ceil(left) - 1))


class Quotas:
    """
    The quotas, and the paths by which they are configured. Thread-safe.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._quotas: dict[str, _Quota] = {}
        self._config: dict[str, Any] = {
            "enable_rate_limit_audit_logging": False,
            "enable_rate_limit_response_headers": False,
            "rate_limit_exempt_paths": list(_EXEMPT),
        }
        self.routes: Sequence[Route] = (
            Route(
                pattern="quotas/config",
                fields=_CONFIG_FIELDS,
                operations={
                    "read": lambda _request, _fields: Reply(data=dict(self._config)),
                    "update": self._configure,
                },
            ),
            Route(
                pattern="quotas/rate-limit/?",
                operations={"list": lambda _request, _fields: keys(list(self._quotas))},
            ),
            Route(
                pattern="quotas/rate-limit/(?P<name>.+)",
                fields=_QUOTA_FIELDS,
                operations={"read": self._read, "update": self._write, "delete": self._delete},
            ),
        )

    def take(self, path: str, client: str) -> Mapping[str, str]:
        """
        Count a request of *client*, an address, for *path*; return the headers, or raise the 429.
        """
        if not self._quotas or self._core.sealed or path in self._config["rate_limit_exempt_paths"]:
            return {}
        with self._lock:
            covering = [one for one in self._quotas.values() if one.covers(path)]
            if not covering:
                return {}
            quota = max(covering, key=lambda one: len(one.path))
            allowed, headers = quota.take(client, self._core.clock.now())
        shown = headers if self._config["enable_rate_limit_response_headers"] else {}
        if allowed:
            return shown
        error = ApiError(429, f'request path "{path}": rate limit quota exceeded')
        error.headers |= shown
        raise error

    def _configure(self, _request: Request, fields: Fields) -> None:
        self._config = {
            "enable_rate_limit_audit_logging": fields.get("enable_rate_limit_audit_logging", False),
            "enable_rate_limit_response_headers": fields.get("enable_rate_limit_response_headers", False),
            "rate_limit_exempt_paths": fields.get("rate_limit_exempt_paths", []),
        }

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        quota = self._quotas.get(fields.text("name"))
        return None if quota is None else Reply(data=quota.show(openbao=self._core.flavor.openbao))

    def _write(self, _request: Request, fields: Fields) -> None:
        name, path = fields.text("name"), fields.text("path").lstrip("/")
        if fields.get("rate", 0.0) <= 0:
            raise refused("'rate' is invalid")
        mount = self._core.mounts.find(path)
        if path and mount is None:
            raise refused(f'invalid mount path "{path}"')
        if fields.text("role"):
            raise refused(f'Mount path "{path}" does not support use with role-based quotas')
        if mount is not None and path.strip("/") == mount.path.strip("/"):
            path = mount.path
        with self._lock:
            alike = next((one for one in self._quotas.values() if one.path == path and one.name != name), None)
            if alike is not None:
                raise refused(f'quota rule with similar properties exists under the name "{alike.name}"')
            self._quotas[name] = _Quota(
                name=name,
                path=path,
                rate=fields.get("rate"),
                interval=fields.get("interval", 0) or 1,
                block=fields.get("block_interval", 0),
                inheritable=fields.get("inheritable", not path),
            )

    def _delete(self, _request: Request, fields: Fields) -> None:
        with self._lock:
            self._quotas.pop(fields.text("name"), None)
