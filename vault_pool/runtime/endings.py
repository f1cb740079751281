"""
The leases that have been succeeded, until Vault has ended them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vault_pool import events
from vault_pool.core import machine
from vault_pool.core.lease import Credential, Lease
from vault_pool.core.machine import LeaseState, Phase
from vault_pool.errors import LeaseLost, SourceError, VaultError, VaultPoolError
from vault_pool.runtime.scheduler import Runtime

if TYPE_CHECKING:
    from vault_pool.runtime.watcher import Watcher

logger = logging.getLogger("vault_pool.watcher")

Job = Callable[[], None]


class Ending:
    """
    One lease on its way out; *left* counts the generations that still have connections by it.
    """

    __slots__ = ("credential", "left", "state", "warned")

    def __init__(self, state: LeaseState, left: int, credential: Credential | None) -> None:
        self.state = state
        self.credential = credential
        self.left = left
        self.warned = False


class Endings:
    """
    Keep succeeded leases alive while their connections are out, then have Vault revoke them.

    Guarded by the *lock* of the watcher that it belongs to, which callers of `add`, `step`, `surrender` and `drained`
    hold. Requests run outside of it, on workers.
    """

    def __init__(
        self,
        watcher: Watcher,
        runtime: Runtime,
        lock: Any,
        tell: Callable[[events.Event], None],
    ) -> None:
        self._source = watcher.source
        self._policy = watcher.policy
        self._wake = watcher.wake
        self._over = watcher.over
        self._runtime = runtime
        self._lock = lock
        self._tell = tell
        self._all: list[Ending] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def states(self) -> list[LeaseState]:
        """
        Return the state of each.
        """
        return [ending.state for ending in self._all]

    def add(self, state: LeaseState, now: float, *, left: int = 0, credential: Credential | None = None) -> Ending:
        """
        Begin to end the lease of *state*, by which *left* generations live, with *credential*.
        """
        ending = Ending(machine.advance(state, machine.Succeeded(), now, self._policy), left, credential)
        if state.lease is not None:
            self._all.append(ending)
            self._drain(ending, now)
        return ending

    def drained(self, ending: Ending) -> None:
        """
        Count one generation of *ending* less.
        """
        ending.left -= 1
        self._drain(ending, self._runtime.clock.now())

    def surrender(self, now: float) -> None:
        """
        Revoke all of them, whatever connections are still out.
        """
        for ending in self._all:
            ending.left = 0
            self._drain(ending, now)

    def forget(self) -> list[LeaseState]:
        """
        Drop what is left, and return it.
        """
        left, self._all = self.states(), []
        return left

    def step(self, now: float, jobs: list[Job]) -> float:
        """
        Add to *jobs* what is due, and return when to look again.
        """
        until = min((self._step_one(ending, now, jobs) for ending in self._all), default=math.inf)
        self._all = [ending for ending in self._all if ending.state.phase is not Phase.ENDED]
        return until

    def _drain(self, ending: Ending, now: float) -> None:
        if ending.left <= 0:
            ending.state = machine.advance(ending.state, machine.Drained(), now, self._policy)

    def _step_one(self, ending: Ending, now: float, jobs: list[Job]) -> float:
        if ending.state.lease is not None:
            known = machine.OwnerChanged(self._source.owner(ending.state.lease))
            self._advance(ending, known, now)
        action = machine.decide(ending.state, now, self._policy)
        if isinstance(action, machine.Lapse):
            self._advance(ending, machine.Lapsed(), now)
            action = machine.decide(ending.state, now, self._policy)
        if isinstance(action, machine.Renew | machine.Revoke):
            ending.state = machine.advance(ending.state, machine.Sent(), now, self._policy)
            request = action
            jobs.append(lambda: self._perform(ending, request))
            action = machine.decide(ending.state, now, self._policy)
        return action.until if isinstance(action, machine.Wait) else now

    def _perform(self, ending: Ending, request: machine.Renew | machine.Revoke) -> None:
        lease = request.lease
        problem: Exception | None = None
        event: machine.Event
        try:
            event = self._ask(request)
        except LeaseLost:
            event = machine.Lost()
        except VaultPoolError as error:
            problem = error
            event = failed(error, self._runtime.random())
        except Exception as error:
            # A source of the application's own may raise anything: it must not stop what comes after.
            logger.exception("%s: unexpected error while ending lease %s", self._source.name, lease.lease_id)
            problem = error
            event = machine.Failed(self._runtime.random())
        self._log(ending, lease, problem, hopeless=isinstance(event, machine.Failed) and not event.retryable)
        with self._lock:
            self._advance(ending, event, self._runtime.clock.now())
        self._wake()

    def _advance(self, ending: Ending, event: machine.Event, now: float) -> None:
        """
        Tell the machine of *event*; if that is the end of a lease by which connections are still out, tell the holders.
        """
        ended = ending.state.phase is Phase.ENDED
        ending.state = machine.advance(ending.state, event, now, self._policy)
        if ending.state.phase is Phase.ENDED and not ended and ending.left > 0 and ending.credential is not None:
            self._over(ending.credential, revoked=not isinstance(event, machine.Lapsed))

    def _ask(self, request: machine.Renew | machine.Revoke) -> machine.Event:
        if isinstance(request, machine.Renew):
            renewed = self._source.renew(request.lease, self._runtime.clock.now())
            return machine.Renewed(renewed.duration, renewed.stamped_at, self._runtime.random())
        self._source.revoke(request.lease)
        self._tell(events.LeaseRevoked(source=self._source.name, lease_id=request.lease.lease_id))
        return machine.Revoked()

    def _log(self, ending: Ending, lease: Lease, problem: Exception | None, *, hopeless: bool) -> None:
        """
        Say one line when trouble begins, and one when it ends.
        """
        if problem is not None:
            level = logging.DEBUG if ending.warned else logging.WARNING
            plan = "it will lapse" if hopeless else "trying again"
            logger.log(level, "%s: retired lease %s: %s; %s", self._source.name, lease.lease_id, problem, plan)
        elif ending.warned:
            logger.info("%s: retired lease %s: well again", self._source.name, lease.lease_id)
        ending.warned = problem is not None


def failed(error: VaultPoolError, draw: float) -> machine.Failed:
    """
    Return what *error* means to the machine. What PostgreSQL refuses may pass: its errors are retryable.
    """
    if isinstance(error, VaultError):
        return machine.Failed(draw, error.retryable, error.retry_after or 0.0)
    if isinstance(error, SourceError):
        return machine.Failed(draw, longest_pause=error.longest_pause)
    return machine.Failed(draw)
