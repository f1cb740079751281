"""
What the machine knows of one lease.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from vault_pool.core.lease import Lease, Owner
from vault_pool.core.messages import Read, Renew, Revoke


class Phase(enum.Enum):
    """
    Where a lease stands.
    """

    VACANT = "vacant"  # nothing to serve with: read
    ACTIVE = "active"  # renewing buys time
    FINAL = "final"  # a successor is to come: renewing buys no more, or somebody wants one
    LAPSED = "lapsed"  # over, and no successor yet
    RETIRING = "retiring"  # succeeded; kept alive while sessions are out
    REVOKING = "revoking"  # its sessions are back; Vault is to be told
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    """
    All that the machine knows of one lease.

    *due* is the instant from which its next request is wanted, *held_until* the one before which Vault forbids it.
    *draw* spreads its moments; *failures* counts failures in a row; *wanted* tells that somebody asked for a successor.
    *sent* is the last request that left, *sent_at* when, None once it was answered.
    *allowance* is the number of requests that were left at *allowed_at*.
    """

    phase: Phase = Phase.VACANT
    lease: Lease | None = None
    owner: Owner = field(default_factory=Owner)
    due: float = 0.0
    held_until: float = -math.inf
    draw: float = 0.0
    failures: int = 0
    wanted: bool = False
    sent_at: float | None = None
    sent: Read | Renew | Revoke | None = None
    allowance: float = 0.0
    allowed_at: float = -math.inf

    @property
    def deadline(self) -> float:
        """
        The instant at which the credential stops working: the end of the lease or of the token that issued it.
        """
        return math.inf if self.lease is None else min(self.lease.expires_at, self.owner.expires_at)

    @property
    def serving(self) -> bool:
        """
        Whether there is a credential in force that a successor is due for.
        """
        return self.phase in (Phase.ACTIVE, Phase.FINAL)

    @property
    def succeeded(self) -> bool:
        """
        Whether another lease took over and this one only has to come to its end.
        """
        return self.phase in (Phase.RETIRING, Phase.REVOKING)

    @property
    def reading(self) -> bool:
        """
        Whether a read is on its way.
        """
        return self.sent_at is not None and isinstance(self.sent, Read)

    @property
    def renewing_buys(self) -> bool:
        """
        Whether a renewal can move the deadline, as far as is known.
        """
        lease, owner = self.lease, self.owner
        return lease is not None and lease.renewable and not (owner.final and lease.expires_at >= owner.expires_at)
