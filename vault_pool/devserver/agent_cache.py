"""
A caching Vault Agent in front of the server, as the fault `agent-cache` makes it seem.

vault: ``command/agentproxyshared/cache``. Callers whose requests are alike, headers included, share one answer.
What has a renewable lease or token is kept, with its duration as it was at first, until the lease or token is gone;
leases only of tokens that the agent manages: its own (auto-auth), and those of logins through it. The agent renews
what it keeps, so that it does not end meanwhile.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Mapping
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
        self._managed: set[str] = set()

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
        self._keep(key, answer, managed=request.token in {*self._managed, fault.token})
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

    def _keep(self, key: tuple[Any, ...], answer: HttpResponse, *, managed: bool) -> None:
        """
        Keep *answer* if it is of the kind that is kept; *managed*: the agent manages the token of the request.
        """
        if answer.status >= 300 or not isinstance(answer.body, dict):
            return
        lease_id = self._lease_of(answer.body, managed=managed)
        if lease_id:
            with self._lock:
                self._kept[key] = _Kept(answer=copy.deepcopy(answer), since=self._core.clock.now(), lease_id=lease_id)
            self._renew_in_time(lease_id, answer.body["lease_duration"])

    def _lease_of(self, body: Mapping[str, Any], *, managed: bool) -> str:
        """
        Return the lease for whose life *body* may be kept, that of a token included; empty: it may not.
        """
        if body.get("lease_id"):
            return str(body["lease_id"]) if body["renewable"] and managed else ""
        auth = body.get("auth") or {}
        entry = self._core.tokens.lookup(auth.get("client_token"))
        if entry is None or not auth["renewable"] or not (auth["orphan"] or managed):
            return ""
        self._managed.add(entry.id)
        return entry.lease_id

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
    for name in ("id", "accessor"):
        (body.get("data") or {}).pop(name, None)
    if body.get("auth"):
        body["auth"] |= {"client_token": "", "accessor": ""}
