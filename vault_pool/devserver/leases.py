"""
Leases: how they are renewed, how they end, and what happens when ending them fails.

vault: ``vault/expiration.go``.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from vault_pool.devserver.clock import Clock
from vault_pool.devserver.errors import BackendError, refused
from vault_pool.devserver.timers import Timers
from vault_pool.devserver.ttl import Limits, Wish, calculate_ttl
from vault_pool.devserver.values import round_half_up, show_time

if TYPE_CHECKING:
    from vault_pool.devserver.token_entry import Auth

# vault: so many attempts to revoke in the background, with pauses of 2^attempt * 10 s ± 50 %.
MAX_ATTEMPTS: Final = 6
_BACKOFF: Final = 10.0


@dataclass(slots=True, kw_only=True, eq=False)
class Lease:
    """
    One lease; *auth* is set on the lease of a token. Guarded by the core's lock.

    *namespace* is a path. *expire_time* None: never. *batch_end*: the end of the batch token that issued it, which no
    renewal can pass. *condemned*: it was ended before its time, or its time is up. *lock* is held while an engine
    renews or revokes, so that both never happen at once.
    """

    lease_id: str
    issue_time: float
    expire_time: float | None
    namespace: str = ""
    renewable: bool = True
    last_renewal: float | None = None
    internal: Mapping[str, Any] = field(default_factory=dict, repr=False)
    token: str = field(default="", repr=False)
    batch_end: float | None = None
    auth: Auth | None = field(default=None, repr=False)
    attempts: int = 0
    condemned: bool = False
    revoke_error: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def path(self) -> str:
        """
        The id with the namespace before it; the mount's path begins it.
        """
        return self.namespace + self.lease_id

    def refusal(self, now: float) -> str | None:
        """
        Return why this lease cannot be renewed, in Vault's words.
        """
        if self.revoke_error:
            return "lease is expired and has failed previous revocation attempts"
        if self.expire_time is None:
            return "lease is not renewable"
        if self.batch_end is not None:
            return None
        if self.condemned or self.expire_time < now:
            return "lease expired"
        return None if self.renewable else "lease is not renewable"

    def remaining(self, now: float) -> int:
        """
        Return the `ttl` of a lookup. vault: the end minus the rounded present, cut towards zero.
        """
        return 0 if self.expire_time is None else int(self.expire_time - round_half_up(now))

    def show(self, now: float) -> dict[str, Any]:
        """
        Return what `sys/leases/lookup` shows.
        """
        return {
            "expire_time": show_time(self.expire_time),
            "id": self.lease_id,
            "issue_time": show_time(self.issue_time),
            "last_renewal": show_time(self.last_renewal),
            "renewable": self.refusal(now) is None,
            "ttl": self.remaining(now),
        }


class Backends(Protocol):
    """
    Whoever can do the engines' part for a lease.
    """

    def renew_secret(self, lease: Lease, increment: int, limits: Limits) -> Wish:
        """
        Renew in the engine; return the TTLs that its role wants now. Raise BackendError.
        """

    def revoke_lease(self, lease: Lease) -> None:
        """
        Revoke in the engine, or the token. Raise BackendError.
        """

    def renewal_limits(self, path: str, start: float) -> Limits:
        """
        Return the TTLs of the mount of *path*, for a renewal of what was issued at *start*.
        """


class Leases:
    """
    All leases, and the timers that end them. Thread-safe; while an engine works, only the lease's own lock is held.
    """

    def __init__(self, backends: Backends, clock: Clock, lock: threading.RLock) -> None:
        self._backends = backends
        self._clock = clock
        self._lock = lock
        self._leases: dict[str, Lease] = {}
        self._of_token: dict[str, set[str]] = {}
        self._random = random.Random()  # noqa: S311 - jitter
        self.timers = Timers(clock)

    def register(self, lease: Lease) -> None:
        """
        Remember *lease* and end it in time.
        """
        with self._lock:
            self._leases[lease.lease_id] = lease
            if lease.token:
                self._of_token.setdefault(lease.token, set()).add(lease.lease_id)
            self.arm(lease)

    def get(self, lease_id: str) -> Lease | None:
        """
        Return the lease.
        """
        return self._leases.get(lease_id)

    def under(self, prefix: str) -> list[Lease]:
        """
        Return the leases whose id, namespace first, begins with *prefix*, sorted.
        """
        with self._lock:
            found = [lease for lease in self._leases.values() if lease.path.startswith(prefix)]
            return sorted(found, key=lambda lease: lease.path)

    def renew(self, lease_id: str, increment: int) -> tuple[Lease, int, list[str]]:
        """
        Renew the lease; return it with its new duration and the warnings.

        Raise BackendError with Vault's text. vault: the engine first, with its own arithmetic, then ours.
        """
        lease = self._renewable(lease_id)
        with lease.lock:
            # Somebody may have revoked it while this renewal waited for the lease's lock.
            self._renewable(lease_id)
            limits = self._backends.renewal_limits(lease.path, lease.issue_time)
            wish = self._backends.renew_secret(lease, increment, limits)
            now = self._clock.now()
            ttl, warnings = calculate_ttl(limits, wish, now=now, start=lease.issue_time, increment=increment)
            with self._lock:
                if lease.condemned:
                    raise BackendError("lease expired")
                end = now + ttl
                lease.expire_time = end if lease.batch_end is None else min(end, lease.batch_end)
                lease.last_renewal = now
                self.arm(lease)
                # vault: whole seconds, cut; only a batch token's end makes it no whole number.
                return lease, ttl if lease.expire_time == end else int(lease.expire_time - now), warnings

    def _renewable(self, lease_id: str) -> Lease:
        with self._lock:
            lease = self._leases.get(lease_id)
            refusal = "lease not found" if lease is None else lease.refusal(self._clock.now())
            if lease is None or refusal is not None:
                raise BackendError(refusal or "")
            if lease.auth is not None:
                raise BackendError("tokens cannot be renewed through this endpoint")
            return lease

    def revoke(self, lease_id: str, *, force: bool = False) -> None:
        """
        Revoke the lease now; an unknown one is revoked already. Raise BackendError and keep it on failure.

        *force*: forget it whatever the engine says.
        """
        lease = self._leases.get(lease_id)
        if lease is None:
            return
        with lease.lock:
            if self._leases.get(lease_id) is not lease:
                return
            try:
                self._backends.revoke_lease(lease)
            except BackendError:
                if not force:
                    raise
            self.forget(lease)

    def revoke_later(self, lease_id: str) -> None:
        """
        End the lease now, and revoke it in the background. vault: ``LazyRevoke``.
        """
        with self._lock:
            lease = self._leases.get(lease_id)
            if lease is not None:
                lease.condemned = True
                lease.expire_time = self._clock.now()
                lease.attempts = 0
                lease.revoke_error = ""
                self.arm(lease)

    def revoke_prefix(self, prefix: str, *, sync: bool = True, force: bool = False) -> None:
        """
        Revoke the lease *prefix*, or all under it; stop at the first failure.
        """
        exact = self._leases.get(prefix)
        found = [exact] if exact is not None else self.under(prefix.rstrip("/") + "/")
        for number, lease in enumerate(found, start=1):
            if not sync:
                self.revoke_later(lease.lease_id)
                continue
            try:
                self.revoke(lease.lease_id, force=force)
            except BackendError as error:
                raise refused(f'failed to revoke "{lease.lease_id}" ({number} / {len(found)}): {error}') from None

    def revoke_of_token(self, token: str) -> None:
        """
        End all leases of *token*; they are revoked in the background.
        """
        with self._lock:
            for lease_id in sorted(self._of_token.pop(token, ())):
                self.revoke_later(lease_id)

    def forget(self, lease: Lease) -> None:
        """
        Drop the record.
        """
        with self._lock:
            self._leases.pop(lease.lease_id, None)
            self._of_token.get(lease.token, set()).discard(lease.lease_id)
            self.timers.cancel(lease.lease_id)

    def irrevocable(self) -> list[Lease]:
        """
        Return the leases whose revocation failed for good.
        """
        with self._lock:
            return [lease for lease in self._leases.values() if lease.revoke_error]

    def arm(self, lease: Lease) -> None:
        """
        End *lease* at its `expire_time`, whenever it was to end before.
        """
        if lease.expire_time is not None:
            self._fall_due_at(lease.lease_id, lease.expire_time)

    def _fall_due_at(self, lease_id: str, when: float) -> None:
        self.timers.set(lease_id, when, lambda: self._fall_due(lease_id))

    def _fall_due(self, lease_id: str) -> None:
        with self._lock:
            lease = self._leases.get(lease_id)
            # It may have been renewed after its timer fired.
            if lease is None or lease.expire_time is None or lease.expire_time > self._clock.now():
                return
            lease.condemned = True
        try:
            self.revoke(lease_id)
        except BackendError as error:
            self._try_again(lease, str(error))

    def _try_again(self, lease: Lease, text: str) -> None:
        with self._lock:
            lease.attempts += 1
            if lease.attempts >= MAX_ATTEMPTS:
                lease.revoke_error = f"out of retries: {text}"
                return
            pause = _BACKOFF * 2**lease.attempts * self._random.uniform(0.5, 1.5)
            self._fall_due_at(lease.lease_id, self._clock.now() + pause)
