"""
What the machine is told, and what it answers: events in the past tense, actions in the imperative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vault_pool.core.lease import Lease, Owner

# --- Events: what happened ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    """
    The request that `decide` asked for, with the same *now*, leaves.
    """


@dataclass(frozen=True, slots=True)
class Issued:
    """
    A new credential came and took over.
    """

    lease: Lease
    owner: Owner
    draw: float


@dataclass(frozen=True, slots=True)
class Unchanged:
    """
    A look at a polled credential found the one that serves, and says by *lease* when to look again.
    """

    lease: Lease
    draw: float


@dataclass(frozen=True, slots=True)
class Renewed:
    """
    A renewal granted *duration* seconds from *stamped_at*.
    """

    duration: float
    stamped_at: float
    draw: float


@dataclass(frozen=True, slots=True)
class Failed:
    """
    The request failed. *retryable*: it may succeed later as it is. *retry_after*: not before that many seconds.

    *longest_pause*: a retry costs nobody anything, so that no pause is longer than that, however often it failed.
    """

    draw: float
    retryable: bool = True
    retry_after: float = 0.0
    longest_pause: float = math.inf


@dataclass(frozen=True, slots=True)
class OwnerChanged:
    """
    More is known of the token that issued the lease.
    """

    owner: Owner


@dataclass(frozen=True, slots=True)
class Lost:
    """
    Vault, or PostgreSQL, says that the credential is no more.

    It answers a renewal on its way as well: what comes of that later must not be told any more.
    """


@dataclass(frozen=True, slots=True)
class RotationRequested:
    """
    Somebody wants a successor now.
    """


@dataclass(frozen=True, slots=True)
class Lapsed:
    """
    The deadline passed.
    """


@dataclass(frozen=True, slots=True)
class Succeeded:
    """
    Another lease took over; sessions of this one may still be out. Told to a copy of the state before `Issued`.
    """


@dataclass(frozen=True, slots=True)
class Drained:
    """
    The last session of this lease is closed.
    """


@dataclass(frozen=True, slots=True)
class Revoked:
    """
    Vault ended the lease, or no longer knows it. For a lease that nothing succeeded it is what `Lost` is.
    """


Event = (
    Sent
    | Issued
    | Unchanged
    | Renewed
    | Failed
    | OwnerChanged
    | Lost
    | RotationRequested
    | Lapsed
    | Succeeded
    | Drained
    | Revoked
)


# --- Actions: what to do -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """
    Nothing before *until*, which is finite for whatever has an end and has not ended.
    """

    until: float


@dataclass(frozen=True, slots=True)
class Read:
    """
    Ask for a new credential.
    """


@dataclass(frozen=True, slots=True)
class Renew:
    """
    Ask for more time for *lease*.
    """

    lease: Lease


@dataclass(frozen=True, slots=True)
class Revoke:
    """
    Tell Vault that *lease* is no longer needed.
    """

    lease: Lease


@dataclass(frozen=True, slots=True)
class Lapse:
    """
    Take note that the deadline passed.
    """


Action = Wait | Read | Renew | Revoke | Lapse
