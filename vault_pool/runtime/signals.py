"""
What becomes of signs that a credential was lost.

A session that says that its role is gone has the last word. Where none can tell, Vault is asked whether the lease is
still in force: after a sign, sparingly, and every *interval* seconds without one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from vault_pool.core.lease import Lease
from vault_pool.errors import LeaseLost, VaultDenied, VaultPoolError
from vault_pool.runtime.endings import Job
from vault_pool.runtime.hot_swap.doubt import Restraint, Sign

if TYPE_CHECKING:
    from vault_pool.runtime.watcher import Watcher

logger = logging.getLogger("vault_pool.watcher")

#: The part of the interval between lookups by which processes are spread, towards the earlier side.
JITTER = 0.2


class Lookup(Protocol):
    """
    What a source can do besides that can ask for a lease without changing it.
    """

    def lookup(self, lease: Lease) -> bool:
        """
        Return whether *lease* is in force; raise `VaultPoolError` where nobody says.
        """


@dataclass(frozen=True, slots=True)
class Docket:
    """
    What is known of inquiries about one lease at a time: a value, which `Inquiries` keeps.

    *lease_id* is whom *lookup_at*, the instant of the next lookup that nobody asks for, belongs to.
    """

    lease_id: str = ""
    lookup_at: float = math.inf
    restraints: dict[Sign, Restraint] = field(default_factory=dict)

    def heard(self, sign: Sign, now: float) -> Docket | None:
        """
        Return what follows if *sign* is inquired into at *now*, or None where that has to wait.
        """
        restraint = self.restraints.get(sign, Restraint())
        if not restraint.allows(now):
            return None
        return replace(self, restraints={**self.restraints, sign: restraint.asked(now)})

    def due(self, lease_id: str, now: float, pause: float) -> tuple[bool, Docket]:
        """
        Return whether the lookup that nobody asks for is due for the lease now in force, and what follows.
        """
        if self.lease_id != lease_id:
            return False, replace(self, lease_id=lease_id, lookup_at=now + pause)
        if now < self.lookup_at:
            return False, self
        return True, replace(self, lookup_at=now + pause)


class Inquiries:
    """
    Find out what became of a lease, for the watcher that it belongs to.

    Guarded by the watcher's lock, which callers of `suspect` and `step` hold. Requests run outside of it, on workers.
    """

    def __init__(self, watcher: Watcher, random: Callable[[], float], interval: float) -> None:
        self._watcher = watcher
        self._random = random
        self._interval = interval
        self._docket = Docket()
        self._forbidden = False

    def suspect(self, lease: Lease, sign: Sign, now: float) -> Job | None:
        """
        Return what is to be done about *sign*, if it is to be done now.
        """
        docket = self._docket.heard(sign, now)
        if docket is None:
            return None
        self._docket = docket
        wanted = sign.insistent or (lease.polled and sign is not Sign.STATEMENT)
        return partial(self._inquire, lease, wanted=wanted)

    def step(self, lease: Lease | None, now: float, jobs: list[Job]) -> float:
        """
        Add to *jobs* the lookup that is due, and return when to look again.
        """
        if lease is None or self._interval == math.inf:
            return math.inf
        due, self._docket = self._docket.due(lease.lease_id, now, self._interval * (1 - JITTER * self._random()))
        if due:
            jobs.append(partial(self._inquire, lease, wanted=False))
        return self._docket.lookup_at

    def _inquire(self, lease: Lease, *, wanted: bool) -> None:
        """
        Have *lease* succeeded if Vault says that it is over, or if that is *wanted* in any case.
        """
        if self._is_over(lease):
            self._watcher.lease_lost(lease, "Vault does not know it any more, or has begun to end it")
        elif wanted:
            self._watcher.want_successor(lease)

    def _is_over(self, lease: Lease) -> bool:
        ask = getattr(self._watcher.source, "lookup", None)
        if ask is None or lease.polled or self._forbidden:
            return False
        name = self._watcher.source.name
        try:
            return not ask(lease)
        except LeaseLost:
            return True
        except VaultDenied as error:
            self._forbidden = not error.token_dead
            if self._forbidden:
                logger.warning("%s: leases cannot be looked up, and revocations are noticed later: %s", name, error)
        except VaultPoolError as error:
            logger.debug("%s: lease %s could not be looked up: %s", name, lease.lease_id, error)
        return False
