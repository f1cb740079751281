"""
Which tokens there are, where the current one stands, and which leases hang on which.

Memory only: no I/O, no clock, no lock; the keeper's lock guards it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from vault_pool.core.lease import Lease
from vault_pool.core.machine import (
    Event,
    Issued,
    LeaseState,
    Lost,
    Owner,
    Phase,
    Renewed,
    RotationRequested,
    advance,
)
from vault_pool.core.policy import RenewalPolicy
from vault_pool.vault.answer import Grant
from vault_pool.vault.secret import Secret

_CLOCKS_DIFFER = 60.0


@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """
    A token that we hold; mutable, under the keeper's lock.

    *secret* is None where an agent adds its own token, *born* tells that one from its successor.
    *lease* is the token's own term. *uses* is how many requests it is still good for, None for any number.
    *final*: nothing moves its end any more. *truncated*: a renewal has met its max TTL.
    *proven*: it has been good for a request. *borrowed* counts the requests that are on their way with it.
    """

    secret: Secret | None
    born: float
    ours: bool
    batch: bool
    lease: Lease
    uses: int | None
    final: bool = False
    dead: bool = False
    truncated: bool = False
    proven: bool = False
    borrowed: int = 0
    leases: dict[str, float] = field(default_factory=dict)

    @property
    def spent(self) -> bool:
        """
        Whether another request would be its last, which revokes it together with its leases.

        (vault: request handling, "token had one use left, so leased credentials were immediately revoked")
        """
        return self.uses is not None and self.uses <= 1

    @property
    def owner(self) -> Owner:
        """
        What the leases that it issued have to know.
        """
        if math.isinf(self.lease.expires_at):
            return Owner(dead=self.dead)
        return Owner(
            expires_at=self.lease.expires_at, term=self.lease.duration, final=self.final or self.dead, dead=self.dead
        )


class Ledger:
    """
    The current token with the state of its life, those before it that leases still hang on, and the leases.
    """

    def __init__(self, policy: RenewalPolicy) -> None:
        self.state = LeaseState()
        self.current: Held | None = None
        self._policy = policy
        self._older: list[Held] = []
        self._issuers: dict[str, Held] = {}

    def tokens(self) -> list[Held]:
        """
        Return all tokens held, the current one last.
        """
        return [*self._older, *([] if self.current is None else [self.current])]

    def advance(self, event: Event, now: float) -> None:
        """
        Advance the life of the current token.
        """
        self.state = advance(self.state, event, now, self._policy)
        held, lease = self.current, self.state.lease
        if held is not None and lease is not None:
            held.lease = lease
            held.final = self.state.phase is not Phase.ACTIVE
            held.truncated = held.truncated or (isinstance(event, Renewed) and held.final)

    def accept(self, grant: Grant, now: float, draw: float) -> None:
        """
        Make the token of *grant*, asked for at *now*, the current one; another one before it is final from now on.
        """
        current = self.current
        same = current is not None and not current.dead and (current.secret, current.born) == (grant.token, grant.born)
        # A given token whose renewals were truncated once stays what it is; only its end may have moved.
        renewable = grant.renewable and not (same and current is not None and current.truncated)
        lease = replace(Lease.issued("", grant.ttl, now, renewable=renewable), increment=grant.increment)
        if same and current is not None:
            current.uses = grant.uses
        else:
            if current is not None:
                current.final = True
                self._older.append(current)
            self.current = Held(
                secret=grant.token,
                born=grant.born,
                ours=grant.ours,
                batch=grant.batch,
                lease=lease,
                uses=grant.uses,
            )
        self.advance(Issued(lease, Owner(), draw), now)

    def usable(self, now: float, *, issuing: bool) -> Held | None:
        """
        Return the current token if it is good for a request, and, where that is *issuing* a lease, will live on.
        """
        held = self.current
        if held is None or held.dead or now >= held.lease.expires_at:
            return None
        if held.spent:
            if self.state.phase is Phase.ACTIVE:
                self.advance(RotationRequested(), now)
            return None
        half_life = held.lease.issued_at + (held.lease.expires_at - held.lease.issued_at) / 2
        return None if issuing and held.ours and held.final and now >= half_life else held

    def die(self, held: Held, now: float) -> None:
        """
        Write down that Vault knows *held* no more.
        """
        held.dead = True
        if held is self.current:
            self.advance(Lost(), now)

    def spend(self, held: Held, *, keep: int = 0) -> bool:
        """
        Take one use of *held*, unless no more than *keep* are left; tell whether there was one.
        """
        if held.uses is None:
            return True
        if held.uses <= keep:
            return False
        held.uses -= 1
        return True

    def borrow(self, held: Held) -> Held:
        """
        Take one use of *held* for a request.
        """
        self.spend(held)
        held.borrowed += 1
        return held

    def give_back(self, held: Held) -> None:
        """
        End what `borrow` began.
        """
        held.borrowed -= 1

    def record(self, lease_id: str, held: Held, ends_at: float) -> None:
        """
        Write down that *held* issued the lease.
        """
        held.leases[lease_id] = ends_at
        self._issuers[lease_id] = held

    def extend(self, lease_id: str, ends_at: float) -> None:
        """
        Write down the new end of the lease.
        """
        held = self._issuers.get(lease_id)
        if held is not None:
            held.leases[lease_id] = ends_at

    def strike(self, lease_id: str) -> None:
        """
        Forget the lease.
        """
        held = self._issuers.pop(lease_id, None)
        if held is not None:
            held.leases.pop(lease_id, None)

    def issuer(self, lease_id: str) -> Held | None:
        """
        Return the token that issued the lease, None where it is not known.
        """
        return self._issuers.get(lease_id)

    def take_spare(self, now: float) -> list[Held]:
        """
        Take out the older tokens that nothing needs any more: no lease, no request on its way.

        Leases that lapsed were given back by nobody. They are struck here, a little late for clocks that differ.
        """
        for held in self.tokens():
            for lease_id in [each for each, ends_at in held.leases.items() if now > ends_at + _CLOCKS_DIFFER]:
                self.strike(lease_id)
        spare = [held for held in self._older if not held.leases and not held.borrowed]
        self._older = [held for held in self._older if held not in spare]
        return spare
