"""
A caching Vault Agent in front of the server, as the fault `agent-cache` makes it seem.

vault: ``command/agentproxyshared/cache``. Callers whose requests are alike, headers included, share one answer.
What has a renewable lease or token is kept, with its duration as it was at first, until the lease or token is gone.
The agent renews what it keeps, so that it does not end meanwhile.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import BackendError
from vault_pool.devserver.exchange import HttpRequest, HttpResponse
from vault_pool.devserver.faults import Fault

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_REVOCATIONS: Final = ("sys/leases/revoke", "sys/revoke")
_OF_ITSELF: Final = ("auth/token/lookup-self", "auth/token/renew-self")
# When the agent renews, as a part of the duration. vault: ``LifetimeWatcher``.
_RENEWED_AT: Final = 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    answer: HttpResponse = field(repr=False)
    since: float
    lease_id: str


class AgentCache:
    """
    The answers that the agent keeps. Thread-safe.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._kept: dict[tuple[Any, ...], _Kept] = {}

    def answer(self, request: HttpRequest, fault: Fault, serve: Callable[[HttpRequest], HttpResponse]) -> HttpResponse:
        """
        Answer *request* from the cache, or by *serve*. A request without a token gets *fault*'s.
        """
        own = not request.token and bool(fault.token)
        if own:
            request = replace(request, headers={**request.headers, "x-vault-token": fault.token})
        key = (request.method, request.target, tuple(sorted(request.headers.items())), request.body)
        kept = self._living(key)
        if kept is not None:
            answer = copy.deepcopy(kept.answer)
            answer.headers |= {"X-Cache": "HIT", "Age": f"{self._core.clock.now() - kept.since:.0f}"}
            return answer
        answer = serve(request)
        answer.headers["X-Cache"] = "MISS"
        if own and request.inside in _OF_ITSELF and isinstance(answer.body, dict):
            _blank(answer.body)
        if answer.status == 204 and request.inside in _REVOCATIONS:
            self._evict(request)
        self._keep(key, answer)
        return answer

    def _living(self, key: tuple[Any, ...]) -> _Kept | None:
        """
        Return what is kept for *key*, unless its lease is gone.
        """
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and self._core.leases.get(kept.lease_id) is None:
                del self._kept[key]
                return None
            return kept

    def _keep(self, key: tuple[Any, ...], answer: HttpResponse) -> None:
        body = answer.body
        if answer.status >= 300 or not isinstance(body, dict):
            return
        lease_id = body.get("lease_id") if body.get("renewable") else None
        auth = body.get("auth") or {}
        if not lease_id and auth.get("renewable") and auth["client_token"]:
            entry = self._core.tokens.lookup(auth["client_token"])
            lease_id = entry and entry.lease_id
        if not lease_id:
            return
        with self._lock:
            self._kept[key] = _Kept(answer=copy.deepcopy(answer), since=self._core.clock.now(), lease_id=lease_id)
        self._renew_in_time(lease_id, body["lease_duration"])

    def _evict(self, request: HttpRequest) -> None:
        try:
            lease_id = json.loads(request.body)["lease_id"]
        except (ValueError, TypeError, KeyError):
            return
        with self._lock:
            self._kept = {key: kept for key, kept in self._kept.items() if kept.lease_id != lease_id}

    def _renew_in_time(self, lease_id: str, duration: int) -> None:
        if duration > 0:
            timers = self._core.leases.timers
            when = self._core.clock.now() + duration * _RENEWED_AT
            timers.set(f"agent:{lease_id}", when, lambda: self._renew(lease_id))

    def _renew(self, lease_id: str) -> None:
        with self._lock:
            wanted = any(kept.lease_id == lease_id for kept in self._kept.values())
        try:
            if wanted:
                _, duration, _ = self._core.leases.renew(lease_id, 0)
                self._renew_in_time(lease_id, duration)
        except BackendError:
            # The agent drops what it cannot renew; the next request makes a new lease.
            with self._lock:
                self._kept = {key: kept for key, kept in self._kept.items() if kept.lease_id != lease_id}


def _blank(body: dict[str, Any]) -> None:
    """
    Take the agent's own token out of an answer. vault: ``sanitizeAutoAuthTokenResponse``.
    """
    for part, emptied in (("data", ("id", "accessor")), ("auth", ("client_token", "accessor"))):
        for name in emptied:
            if body.get(part) and name in body[part]:
                body[part][name] = ""
