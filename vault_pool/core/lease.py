"""
A credential and the term for which Vault granted it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Credential:
    """
    A PostgreSQL user and its password, as one value, so that nobody can see half of a change.
    """

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """
    The term that Vault granted, counted from *before* the request was sent.

    Counting from the earlier instant errs towards acting early.
    *lease_id* is Vault's name for it. *renewable* tells whether renewing buys time: Vault's word at first, which
    never turns false to warn of the end; false from the renewal on that came truncated or was refused.
    *issued_at* is the instant at which the credential was asked for; renewals leave it alone.
    *stamped_at* and *duration* are the term in force: since when, and for how many seconds.
    *increment* is what renewals ask for, in seconds: the duration at issue.

    *polled* is for what comes without a lease (a static role, a KV secret, a file): the term has no end then, it only
    says when to look again: after *duration* seconds, and up to *spread* seconds more.
    """

    lease_id: str
    duration: float
    issued_at: float
    stamped_at: float
    increment: float
    renewable: bool = True
    polled: bool = False
    spread: float = 0.0

    @classmethod
    def issued(cls, lease_id: str, duration: float, now: float, *, renewable: bool = True) -> Lease:
        """
        Return a lease granted for *duration* seconds by a request that left at *now*.
        """
        return cls(
            lease_id=lease_id,
            duration=duration,
            issued_at=now,
            stamped_at=now,
            increment=duration,
            renewable=renewable,
        )

    @classmethod
    def looked_up(cls, version: str, duration: float, now: float, *, spread: float = 0.0) -> Lease:
        """
        Return the term of a credential without a lease that was read by a request which left at *now*.

        *version* names it (no secret): another version of the credential has another name.
        It is looked at again after *duration* seconds (`math.inf`: never) and up to *spread* seconds more.
        """
        unleased = cls.issued(version, duration, now, renewable=False)
        return replace(unleased, polled=True, spread=spread)

    @property
    def expires_at(self) -> float:
        """
        The instant at which the lease itself ends; the token that issued it may end earlier.
        """
        return math.inf if self.polled else self.stamped_at + self.duration

    def renewed(self, duration: float, now: float) -> Lease:
        """
        Return this lease after a renewal for *duration* seconds whose request left at *now*.
        """
        renewable = self.renewable and not self.truncated_by(duration)
        return replace(self, duration=duration, stamped_at=now, renewable=renewable)

    def truncated_by(self, duration: float) -> bool:
        """
        Tell whether a renewal that granted *duration* seconds has met max_ttl.

        Vault gives no other sign: it grants less than was asked, or less than before, and then ever less
        (Vault documentation, "Lease, renew, and revoke"; an administrator who lowers a TTL looks the same).
        """
        return duration < self.increment or duration < self.duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """
    The token that issued a lease: a lease dies with it, whoever renews the lease.

    *expires_at* is the token's end as far as is known, *term* the seconds for which it was last granted.
    *final* tells that nothing will move the end any more, *dead* that it is over already, and its leases with it.
    Vault compares the two nowhere: a lease may be granted for longer than its token lives
    (Vault documentation, "Tokens", "Token hierarchies and orphan tokens").
    """

    expires_at: float = math.inf
    term: float = math.inf
    final: bool = False
    dead: bool = False
