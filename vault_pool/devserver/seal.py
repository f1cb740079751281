"""
What is answered without a token and while sealed: `sys/health`, `sys/seal-status`, `sys/unseal` and their like.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, Final

from vault_pool.devserver.core import Core
from vault_pool.devserver.errors import ApiError, refused
from vault_pool.devserver.values import show_time

_SHORTEST_KEY: Final = 16
_WRITES: Final = ("PUT", "POST")


class SealPaths:
    """
    The paths that go round the core.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._started = core.clock.now()

    def answer(
        self, method: str, path: str, parameters: Mapping[str, str], body: Callable[[], Mapping[str, Any]]
    ) -> tuple[int, Any] | None:
        """
        Return status and body, or None for any other path.
        """
        if path == "sys/health":
            if method not in {"GET", "HEAD"}:
                raise ApiError(405)
            return self._health_status(parameters), self._health()
        readable = {"sys/seal-status": self._status, "sys/leader": self._leader, "sys/init": self._init}.get(path)
        if readable is not None:
            if method not in {"GET", "HEAD"}:
                raise ApiError(405)
            return 200, readable()
        if path == "sys/unseal":
            if method not in _WRITES:
                raise ApiError(405)
            return self._unseal(body())
        if path in {"sys/seal", "sys/step-down"} and method not in _WRITES:
            raise ApiError(405)
        return None

    def _health_status(self, parameters: Mapping[str, str]) -> int:
        name, status = ("sealedcode", 503) if self._core.sealed else ("activecode", 200)
        wanted = parameters.get(name, "")
        if not wanted:
            return status
        if not wanted.isdigit():
            raise ApiError(400)
        return int(wanted)

    def _health(self) -> dict[str, Any]:
        sealed = self._core.sealed
        mode = "unknown" if sealed else "disabled"
        return {
            "initialized": True,
            "sealed": sealed,
            "standby": sealed,
            "performance_standby": False,
            "replication_performance_mode": mode,
            "replication_dr_mode": mode,
            "server_time_utc": int(self._core.clock.now()),
            "version": self._core.flavor.version,
            **self._cluster(),
        }

    def _cluster(self) -> dict[str, Any]:
        if self._core.sealed:
            return {}
        return {"cluster_name": self._core.cluster_name, "cluster_id": self._core.cluster_id}

    def _status(self) -> dict[str, Any]:
        return {
            "type": "shamir",
            "initialized": True,
            "sealed": self._core.sealed,
            "t": 1,
            "n": 1,
            "progress": 0,
            "nonce": "",
            "version": self._core.flavor.version,
            "build_date": "",
            "migration": False,
            **self._cluster(),
            "recovery_seal": False,
            "storage_type": "inmem",
        }

    def _leader(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "ha_enabled": False,
            "is_self": False,
            "active_time": show_time(self._started, whole_seconds=True),
            "leader_address": "",
            "leader_cluster_address": "",
        }
        if not self._core.flavor.openbao:
            shown |= {"performance_standby": False, "performance_standby_last_remote_wal": 0}
        return shown

    def _init(self) -> dict[str, Any]:
        return {"initialized": True}

    def _unseal(self, data: Mapping[str, Any]) -> tuple[int, Any]:
        key = str(data.get("key") or "")
        if not key and not data.get("reset"):
            raise refused("'key' must be specified in request body as JSON, or 'reset' set to true")
        try:
            raw = bytes.fromhex(key) if len(key) == 2 * 32 else b64decode(key, validate=True)
        except (ValueError, binascii.Error):
            raise refused("'key' must be a valid hex or base64 string") from None
        if len(raw) < _SHORTEST_KEY:
            raise refused(f"invalid key: key is shorter than minimum {_SHORTEST_KEY} bytes")
        if raw != b64decode(self._core.unseal_key):
            raise refused("Unseal failed, invalid key")
        self._core.unseal()
        return 200, self._status()
