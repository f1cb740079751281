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
from vault_pool.devserver.faults import STATES
from vault_pool.devserver.values import show_time

_SHORTEST_KEY: Final = 16
_WRITES: Final = ("PUT", "POST")
_TRUE: Final = ("1", "t", "true")
# For each state the parameter that sets another status, and the status.
_STATUSES: Final = {
    "active": ("activecode", 200),
    "sealed": ("sealedcode", 503),
    "standby": ("standbycode", 429),
    "standby-reads": ("standbycode", 429),
    "performance-standby": ("performancestandbycode", 473),
}


# The paths by which the state of the server is read.
READABLE: Final = ("sys/health", "sys/seal-status", "sys/leader", "sys/init")


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
            state = self._state()
            return _status_of(state, parameters), self._health(state)
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

    def _state(self) -> str:
        """
        Return what this server is, or seems to be: active, or one of `faults.STATES`.
        """
        seeming = self._core.faults.claim(*STATES)
        return "sealed" if self._core.sealed else "active" if seeming is None else seeming.fault.kind

    def _health(self, state: str) -> dict[str, Any]:
        mode = "unknown" if state == "sealed" else "disabled"
        return {
            "initialized": True,
            "sealed": state == "sealed",
            "standby": state != "active",
            "performance_standby": state == "performance-standby",
            "replication_performance_mode": mode,
            "replication_dr_mode": mode,
            "server_time_utc": int(self._core.clock.now()),
            "version": self._core.flavor.version,
            **self._cluster(sealed=state == "sealed"),
        }

    def _cluster(self, *, sealed: bool) -> dict[str, Any]:
        if sealed:
            return {}
        return {"cluster_name": self._core.cluster_name, "cluster_id": self._core.cluster_id}

    def _status(self) -> dict[str, Any]:
        sealed = self._state() == "sealed"
        return {
            "type": "shamir",
            "initialized": True,
            "sealed": sealed,
            "t": 1,
            "n": 1,
            "progress": 0,
            "nonce": "",
            "version": self._core.flavor.version,
            "build_date": "",
            "migration": False,
            **self._cluster(sealed=sealed),
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


def _status_of(state: str, parameters: Mapping[str, str]) -> int:
    """
    Return the status of `sys/health`, which *parameters* may change. vault: ``http/sys_health.go``.
    """
    for accepted, states in (("standbyok", ("standby", "standby-reads")), ("perfstandbyok", ("performance-standby",))):
        if state in states and parameters.get(accepted, "").lower() in _TRUE:
            state = "active"
    name, status = _STATUSES[state]
    wanted = parameters.get(name, "")
    if not wanted:
        return status
    if not wanted.isdigit():
        raise ApiError(400)
    return int(wanted)
