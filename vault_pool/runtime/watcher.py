"""
What drives the machine of a source, and swaps the pools that live by it.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

from vault_pool import events
from vault_pool.core import machine
from vault_pool.core.lease import Credential, Lease
from vault_pool.core.machine import LeaseState, Phase
from vault_pool.core.policy import RenewalPolicy
from vault_pool.errors import LeaseLost, VaultError, VaultPoolError, fold
from vault_pool.runtime.scheduler import Handle, Runtime
from vault_pool.sources.base import Issued, Source

logger = logging.getLogger("vault_pool.watcher")


class Holder(Protocol):
    """
    A pool that lives by the credentials of a source.

    Only `prepare` and `discard` may block. The others are called with the watcher's lock held, and must call
    neither the watcher nor the application.
    """

    @property
    def lane(self) -> Hashable:
        """
        What its database may hang on.
        """

    def prepare(self, credential: Credential) -> Any:
        """
        Return an open and proven generation for *credential*, or raise `PoolError`.
        """

    def discard(self, prepared: Any) -> None:
        """
        Close what `prepare` returned and nobody installed.
        """

    def install(self, prepared: Any, on_finished: Callable[[], None]) -> int | None:
        """
        Replace the current generation; return the new one's number, or None where the holder is closed.

        *on_finished* is called once the last connection of the generation before is closed; at once if there was none.
        """

    def vacate(self) -> None:
        """
        Retire the current generation without a successor: clients wait.
        """

    def report(self, error: VaultPoolError | None) -> None:
        """
        Take note that there is trouble, or (None) that there is none.
        """

    def emit(self, event: events.Event) -> None:
        """
        Tell the application what happened.
        """


class Tenure:
    """
    A lease that has been succeeded, until Vault has ended it.

    *left* counts the generations that still have connections; the watcher's lock guards it and *state*.
    """

    __slots__ = ("left", "state", "warned")

    def __init__(self, state: LeaseState, left: int) -> None:
        self.state = state
        self.left = left
        self.warned = False


class Watcher:
    """
    Watch one lease of *source* at a time for all holders that live by it.

    Thread-safe: ``_lock`` guards the machine's state, the list of holders and the leases that are being ended.
    Decisions are made under it; requests, proofs and swaps run on workers outside it, one at a time (the machine
    knows of a request in flight and decides no other). A result that belongs to a lease which is no longer
    current is dropped.
    """

    def __init__(self, source: Source, policy: RenewalPolicy, runtime: Runtime) -> None:
        self.source = source
        self.policy = policy
        self._runtime = runtime
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._state = LeaseState()
        self._credential: Credential | None = None
        self._holders: list[weakref.ref[Any]] = []
        self._served: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._tenures: list[Tenure] = []
        self._handle: Handle | None = None
        self._trouble_since: float | None = None
        self._attempts = 0
        self._running = False
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Watcher of {self.source.name!r}: {self._state.phase.value}>"

    # --- Holders -----------------------------------------------------------------------------------------

    def attach(self, holder: Holder) -> None:
        """
        Serve *holder* from now on; the first one starts the watch.
        """
        with self._lock:
            self._holders.append(weakref.ref(holder))
            starting, self._running = not self._running, True
        if starting:
            self._runtime.acquire()
            self.source.attach(self._runtime, self.wake)
        self.wake()

    def detach(self, holder: Holder, timeout: float) -> None:
        """
        Serve *holder* no more. The last one out ends the leases, waiting up to *timeout* seconds for Vault.
        """
        with self._lock:
            self._holders = [ref for ref in self._holders if ref() is not None and ref() is not holder]
            self._served.pop(holder, None)
            if self._holders or not self._running:
                return
            self._stopping = True
            self._surrender()
        self.wake()
        with self._lock:
            self._changed.wait_for(lambda: not self._tenures and self._state.sent is None, timeout)
            self._running = self._stopping = False
            self._state = LeaseState(draw=self._runtime.random())
            self._credential = None
            left, self._tenures = self._tenures, []
            if self._handle is not None:
                self._handle.cancel()
        for tenure in left:
            logger.warning(
                "%s: lease %s was not revoked in time; it ends by itself", self.source.name, _name(tenure.state)
            )
        self.source.detach(self.wake)
        self._runtime.release()

    def _surrender(self) -> None:
        """
        Let the current lease end. The caller holds the lock and has retired every generation of it.
        """
        now = self._runtime.clock.now()
        if self._state.lease is not None:
            ended = machine.advance(self._state, machine.Succeeded(), now, self.policy)
            ended = machine.advance(ended, machine.Drained(), now, self.policy)
            self._tenures.append(Tenure(ended, 0))
            self._state = LeaseState(due=float("inf"), sent=self._state.sent)
        for tenure in self._tenures:
            self._drained(tenure, now)

    def _alive(self) -> list[Any]:
        return [holder for ref in self._holders if (holder := ref()) is not None]

    # --- What the pools ask --------------------------------------------------------------------------------

    @property
    def state(self) -> LeaseState:
        """
        The machine's state: a frozen value.
        """
        return self._state

    @property
    def tenures(self) -> list[LeaseState]:
        """
        The states of the leases that have been succeeded and are not ended yet.
        """
        with self._lock:
            return [tenure.state for tenure in self._tenures]

    def rotate(self) -> None:
        """
        Have a successor fetched now.
        """
        self._advance(machine.RotationRequested())

    def now(self) -> float:
        """
        Return the present instant on the clock that the state is measured by.
        """
        return self._runtime.clock.now()

    # --- Deciding ----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """
        Look at the lease now. Cheap; no I/O; from any thread.
        """
        self._runtime.call_at(self._runtime.clock.now(), self._step)

    def _advance(self, event: machine.Event) -> None:
        with self._lock:
            self._state = machine.advance(self._state, event, self._runtime.clock.now(), self.policy)
        self.wake()

    def _step(self) -> None:
        """
        Decide what is due, and hand it to the workers. Runs on the scheduler thread.
        """
        jobs: list[tuple[Hashable, Callable[[], None]]] = []
        with self._lock:
            if not self._running:
                return
            now = self._runtime.clock.now()
            until = min([self._step_current(now, jobs), *(self._step_tenure(t, now, jobs) for t in self._tenures)])
            self._tenures = [tenure for tenure in self._tenures if tenure.state.phase is not Phase.ENDED]
            self._changed.notify_all()
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._runtime.call_at(until, self._step) if until < float("inf") else None
        for lane, job in jobs:
            self._runtime.submit(lane, job)

    def _step_current(self, now: float, jobs: list[tuple[Hashable, Callable[[], None]]]) -> float:
        if self._stopping:
            return float("inf")
        if self._state.lease is not None:
            owner = self.source.owner(self._state.lease)
            before = self._state
            self._state = machine.advance(before, machine.OwnerChanged(owner), now, self.policy)
            if before.lease is not None and self._state.lease is None:
                self._vacate(before.lease, "the token that issued it is dead")
        action = machine.decide(self._state, now, self.policy)
        while isinstance(action, machine.Lapse):
            self._lapsed(now)
            action = machine.decide(self._state, now, self.policy)
        if isinstance(action, machine.Wait):
            self._join(jobs)
            return action.until
        self._state = machine.advance(self._state, machine.Sent(), now, self.policy)
        jobs.append(
            (self.source.lane, partial(self._renew, action) if isinstance(action, machine.Renew) else self._read)
        )
        wait = machine.decide(self._state, now, self.policy)
        return wait.until if isinstance(wait, machine.Wait) else now

    def _step_tenure(self, tenure: Tenure, now: float, jobs: list[tuple[Hashable, Callable[[], None]]]) -> float:
        if tenure.state.lease is not None:
            owner = self.source.owner(tenure.state.lease)
            tenure.state = machine.advance(tenure.state, machine.OwnerChanged(owner), now, self.policy)
        action = machine.decide(tenure.state, now, self.policy)
        if isinstance(action, machine.Lapse):
            tenure.state = machine.advance(tenure.state, machine.Lapsed(), now, self.policy)
            action = machine.decide(tenure.state, now, self.policy)
        if not isinstance(action, machine.Wait):
            tenure.state = machine.advance(tenure.state, machine.Sent(), now, self.policy)
            jobs.append((self.source.lane, partial(self._end, tenure, action)))
            action = machine.decide(tenure.state, now, self.policy)
        return action.until if isinstance(action, machine.Wait) else now

    def _lapsed(self, now: float) -> None:
        lease = self._state.lease
        self._state = machine.advance(self._state, machine.Lapsed(), now, self.policy)
        if lease is not None:
            logger.warning(
                "%s: lease %s ended without a successor; open sessions are kept", self.source.name, lease.lease_id
            )
            self._emit(events.LeaseLapsed(source=self.source.name, lease_id=lease.lease_id))

    def _vacate(self, lease: Lease, reason: str) -> None:
        """
        Take a dead credential out of service: clients wait for its successor. The caller holds the lock.
        """
        self._credential = None
        logger.warning("%s: lease %s is lost (%s); rotating", self.source.name, lease.lease_id, reason)
        self._note_trouble()
        for holder in self._alive():
            if self._served.pop(holder, None) is not None:
                holder.vacate()
        self._emit(events.LeaseLost(source=self.source.name, lease_id=lease.lease_id, reason=reason))

    # --- Requests, on workers ------------------------------------------------------------------------------

    def _read(self) -> None:
        now = self._runtime.clock.now()
        try:
            issued = self.source.read(now)
        except VaultPoolError as error:
            self._failed(error)
            return
        holders = self._alive()
        # The database may hang where Vault does not: it is waited for in its own lane.
        lane = holders[0].lane if holders else self.source.lane
        self._runtime.submit(lane, partial(self._swap, issued))

    def _swap(self, issued: Issued) -> None:
        """
        Prove *issued* with every holder, then have all of them swap; or with none.
        """
        prepared: list[tuple[Any, Any]] = []
        try:
            for holder in [] if self._stopping else self._alive():
                prepared.append((holder, holder.prepare(issued.credential)))  # noqa: PERF401 - what is there is kept
        except VaultPoolError as error:
            for holder, generation in prepared:
                holder.discard(generation)
            self._return_lease(issued)
            self._failed(error)
            return
        now = self._runtime.clock.now()
        number = None
        with self._lock:
            tenure = Tenure(machine.advance(self._state, machine.Succeeded(), now, self.policy), len(prepared))
            if self._state.lease is not None:
                self._tenures.append(tenure)
            self._state = self._issued(issued, now)
            self._credential = issued.credential
            for holder, generation in prepared:
                self._served[holder] = issued.lease.lease_id
                number = holder.install(generation, partial(self._finished, tenure)) or number
            if self._stopping:
                self._surrender()
        if number is not None:
            self._rotated(issued, number, now)
        self.wake()

    def _issued(self, issued: Issued, now: float) -> LeaseState:
        event = machine.Issued(issued.lease, self.source.owner(issued.lease), self._runtime.random())
        return machine.advance(self._state, event, now, self.policy)

    def _return_lease(self, issued: Issued) -> None:
        """
        Have a lease revoked whose credential did not prove itself.
        """
        now = self._runtime.clock.now()
        state = machine.advance(
            LeaseState(), machine.Issued(issued.lease, self.source.owner(issued.lease), 0.0), now, self.policy
        )
        for event in (machine.Succeeded(), machine.Drained()):
            state = machine.advance(state, event, now, self.policy)
        with self._lock:
            self._tenures.append(Tenure(state, 0))

    def _join(self, jobs: list[tuple[Hashable, Callable[[], None]]]) -> None:
        """
        Give the current credential to holders that came later. The caller holds the lock.
        """
        lease = self._state.lease
        if lease is None or self._credential is None or self._state.sent is not None:
            return
        for holder in self._alive():
            if holder not in self._served:
                self._served[holder] = lease.lease_id
                jobs.append((holder.lane, partial(self._welcome, holder, self._credential, lease.lease_id)))

    def _welcome(self, holder: Holder, credential: Credential, lease_id: str) -> None:
        try:
            generation = holder.prepare(credential)
        except VaultPoolError as error:
            with self._lock:
                self._served.pop(holder, None)
            holder.report(error)
            self._runtime.call_at(self._runtime.clock.now() + self.policy.backoff_base, self._step)
            return
        with self._lock:
            if self._served.get(holder) == lease_id:
                holder.install(generation, lambda: None)
                holder.report(None)
                return
        # A rotation overtook this one and has served the holder already.
        holder.discard(generation)

    def _renew(self, action: machine.Renew) -> None:
        now = self._runtime.clock.now()
        lease = action.lease
        try:
            renewed = self.source.renew(lease, now)
        except LeaseLost as error:
            self._lost(lease, error)
            return
        except VaultPoolError as error:
            self._emit(events.RenewalFailed(source=self.source.name, lease_id=lease.lease_id, error=fold(error)))
            self._failed(error, lease)
            return
        truncated = lease.truncated_by(renewed.duration)
        event = machine.Renewed(renewed.duration, renewed.stamped_at, self._runtime.random())
        with self._lock:
            if self._state.lease is None or self._state.lease.lease_id != lease.lease_id:
                return
            self._state = machine.advance(self._state, event, self._runtime.clock.now(), self.policy)
        self._well()
        self._emit(
            events.LeaseRenewed(
                source=self.source.name, lease_id=lease.lease_id, duration=renewed.duration, truncated=truncated
            )
        )
        self.wake()

    def _end(self, tenure: Tenure, action: machine.Action) -> None:
        """
        Keep a succeeded lease alive, or end it.
        """
        lease = tenure.state.lease
        assert lease is not None
        event: machine.Event
        try:
            if isinstance(action, machine.Renew):
                renewed = self.source.renew(lease, self._runtime.clock.now())
                event = machine.Renewed(renewed.duration, renewed.stamped_at, self._runtime.random())
            else:
                self.source.revoke(lease)
                event = machine.Revoked()
                self._emit(events.LeaseRevoked(source=self.source.name, lease_id=lease.lease_id))
        except LeaseLost:
            event = machine.Lost()
        except VaultPoolError as error:
            event = self._failure(error)
            level = logging.DEBUG if tenure.warned else logging.WARNING
            tenure.warned = True
            logger.log(level, "%s: retired lease %s: %s; trying again", self.source.name, lease.lease_id, error)
        else:
            if tenure.warned:
                logger.info("%s: retired lease %s: well again", self.source.name, lease.lease_id)
                tenure.warned = False
        with self._lock:
            tenure.state = machine.advance(tenure.state, event, self._runtime.clock.now(), self.policy)
        self.wake()

    # --- Outcomes ----------------------------------------------------------------------------------------

    def _finished(self, tenure: Tenure) -> None:
        """
        Count one generation of *tenure* less; called by the reaper of its holder.
        """
        with self._lock:
            tenure.left -= 1
            self._drained(tenure, self._runtime.clock.now())
        self.wake()

    def _drained(self, tenure: Tenure, now: float) -> None:
        if tenure.left <= 0 or self._stopping:
            tenure.state = machine.advance(tenure.state, machine.Drained(), now, self.policy)

    def _lost(self, lease: Lease, error: LeaseLost) -> None:
        with self._lock:
            if self._state.lease is None or self._state.lease.lease_id != lease.lease_id:
                return
            self._state = machine.advance(self._state, machine.Lost(), self._runtime.clock.now(), self.policy)
            self._vacate(lease, str(error))
        self.wake()

    def _failed(self, error: VaultPoolError, lease: Lease | None = None) -> None:
        """
        Take note of a request that failed: for *lease*, or for a successor.
        """
        with self._lock:
            if lease is not None and (self._state.lease is None or self._state.lease.lease_id != lease.lease_id):
                return
            now = self._runtime.clock.now()
            self._state = machine.advance(self._state, self._failure(error), now, self.policy)
            first = self._note_trouble()
            holders, attempt, rest = self._alive(), self._attempts, self._state.deadline - now
        serves = f"the credential serves on for {rest:.0f} s" if 0 < rest < float("inf") else "there is no credential"
        level = logging.WARNING if first else logging.DEBUG
        logger.log(level, "%s: %s; trying again, %s", self.source.name, error, serves)
        if lease is None:
            self._emit(events.RotationFailed(source=self.source.name, error=fold(error), attempt=attempt))
        for holder in holders:
            holder.report(error)
        self.wake()

    def _failure(self, error: VaultPoolError) -> machine.Failed:
        retryable = error.retryable if isinstance(error, VaultError) else True
        retry_after = error.retry_after if isinstance(error, VaultError) else None
        return machine.Failed(self._runtime.random(), retryable, retry_after or 0.0)

    def _note_trouble(self) -> bool:
        """
        Count a failure; return whether it is the first of a row. The caller holds the lock.
        """
        first = self._trouble_since is None
        if first:
            self._trouble_since = self._runtime.clock.now()
        self._attempts += 1
        return first

    def _well(self) -> None:
        """
        Take note that things work.
        """
        with self._lock:
            since, self._trouble_since = self._trouble_since, None
            attempts, self._attempts = self._attempts, 0
            holders = self._alive()
        if since is None:
            return
        seconds = self._runtime.clock.now() - since
        logger.info("%s: well again after %.1f s and %d failures", self.source.name, seconds, attempts)
        for holder in holders:
            holder.report(None)

    def _rotated(self, issued: Issued, number: int, now: float) -> None:
        lease, seconds = issued.lease, now - issued.lease.issued_at
        self._well()
        logger.info(
            "%s: generation %d serves as %s for %.0f s (lease %s), ready in %.2f s",
            self.source.name,
            number,
            issued.credential.user,
            lease.duration,
            lease.lease_id,
            seconds,
        )
        self._emit(
            events.PoolReplaced(
                source=self.source.name,
                generation=number,
                user=issued.credential.user,
                lease_id=lease.lease_id,
                duration=lease.duration,
                seconds=seconds,
            )
        )

    def _emit(self, event: events.Event) -> None:
        for holder in self._alive():
            holder.emit(event)


def _name(state: LeaseState) -> str:
    return state.lease.lease_id if state.lease is not None else "?"


_watchers: dict[int, Watcher] = {}
_watchers_lock = threading.Lock()


def watcher_of(source: Source, policy: RenewalPolicy, runtime: Runtime) -> Watcher:
    """
    Return the watcher of *source*; pools on one source share it, and so one lease.
    """
    with _watchers_lock:
        known = _watchers.get(id(source))
        if known is None or known.source is not source:
            known = _watchers[id(source)] = Watcher(source, policy, runtime)
        return known


def forget(watcher: Watcher) -> None:
    """
    Drop a watcher that nobody uses any more.
    """
    with _watchers_lock:
        if not watcher._running and _watchers.get(id(watcher.source)) is watcher:
            del _watchers[id(watcher.source)]
