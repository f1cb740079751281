"""
What drives the machine of a source, and swaps the pools that live by it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Hashable
from functools import partial
from typing import Any

from vault_pool import events
from vault_pool.core import machine
from vault_pool.core.lease import Credential, Lease
from vault_pool.core.machine import LeaseState
from vault_pool.core.policy import RenewalPolicy
from vault_pool.errors import LeaseLost, LoginFailed, PoolError, VaultPoolError
from vault_pool.runtime import forking
from vault_pool.runtime.chronicle import Chronicle
from vault_pool.runtime.endings import Ending, Endings, Job, failed
from vault_pool.runtime.holder import Holder
from vault_pool.runtime.holders import Holders
from vault_pool.runtime.hot_swap.doubt import Sign
from vault_pool.runtime.scheduler import Handle, Runtime
from vault_pool.runtime.signals import Inquiries
from vault_pool.sources.base import Issued, Source

logger = logging.getLogger("vault_pool.watcher")


class Watcher:
    """
    Watch one lease of *source* at a time for all holders that live by it.

    Thread-safe: ``_lock`` guards the machine's state, the list of holders and the leases that are being ended; it is
    taken before any lock of a holder. Decisions are made under it; requests, proofs and openings run on workers
    outside it, one at a time (the machine knows of a request in flight and decides no other). A result that belongs
    to a lease which is no longer current is dropped.
    """

    def __init__(
        self, source: Source, policy: RenewalPolicy, runtime: Runtime, lookup_interval: float = math.inf
    ) -> None:
        self.source = source
        self.policy = policy
        self._runtime = runtime
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._state = LeaseState()
        self._credential: Credential | None = None
        self._holders = Holders()
        self._chronicle = Chronicle(source.name, runtime.clock.now, self._tell)
        self._endings = Endings(self, runtime, self._lock, self._tell)
        self._inquiries = Inquiries(self, runtime.random, lookup_interval)
        self._handle: Handle | None = None
        self._running = False
        self._stopping = False
        # The last pool has left, and nobody came since.
        self._deserted = False
        # How many pools have asked for it and not given it up; guarded by the lock of the table below.
        self.users = 0
        forking.watch(self)

    def start_over(self) -> None:
        """
        Watch nothing any more: in a child of fork, the lease is the parent's.
        """
        forking.renew(self._changed)
        self._running = self._deserted = False

    def __repr__(self) -> str:
        return f"<Watcher of {self.source.name!r}: {self._state.phase.value}>"

    # --- Holders -----------------------------------------------------------------------------------------

    def attach(self, holder: Holder) -> None:
        """
        Serve *holder* from now on, unless it was closed before it came; the first one starts the watch.
        """
        with self._lock:
            if holder.closed:
                return
            # All of it under the lock, or who detaches meanwhile would end what has not begun yet.
            self._holders.add(holder)
            if not self._running:
                self._running, self._deserted = True, False
                self._runtime.acquire()
                self.source.attach(self._runtime, self.wake)
        self.wake()

    def detach(self, holder: Holder, timeout: float) -> None:
        """
        Serve *holder* no more. The last one out ends the leases, waiting up to *timeout* seconds for Vault.
        """
        deadline = self.now() + timeout
        with self._lock:
            self._holders.remove(holder)
            if self._holders or not self._running or self._stopping:
                return
            self._stopping = True
            self._surrender()
        self.wake()
        with self._lock:
            self._changed.wait_for(lambda: not self._endings and self._state.sent_at is None, timeout)
            self._stopping = False
            self._state, self._credential = LeaseState(), None
            if self._holders:
                # Somebody came while we were at it: the watch goes on, with a lease of its own.
                self.wake()
                return
            self._running, self._deserted = False, True
            if self._handle is not None:
                self._handle.cancel()
            left = self._endings.forget()
        for state in left:
            self._left_to_time(state)
        self._leave(deadline)

    def _left_to_time(self, state: LeaseState) -> None:
        name = "none" if state.lease is None else state.lease.lease_id
        logger.warning("%s: a lease was not revoked in time, and will lapse: %s", self.source.name, name)

    def _leave(self, deadline: float) -> None:
        """
        Let go of Vault and of the threads; a Vault that hangs is not waited for beyond *deadline*.
        """
        left = threading.Event()

        def leave() -> None:
            try:
                self.source.detach(self.wake)
            finally:
                left.set()

        self._runtime.submit(self.source.lane, leave)
        left.wait(max(0.5, deadline - self.now()))
        self._runtime.release(timeout=max(0.5, deadline - self.now()))

    def _surrender(self) -> None:
        """
        Let the current lease end, and all before it. The caller holds the lock.
        """
        now = self.now()
        if self._state.lease is not None:
            self._endings.add(self._state, now)
            # A read on its way will bring a lease that has to be ended, too; of a renewal nobody hears any more.
            sent_at = self._state.sent_at if self._state.reading else None
            self._state = LeaseState(sent=self._state.sent, sent_at=sent_at)
        self._endings.surrender(now)

    # --- What the pools ask --------------------------------------------------------------------------------

    @property
    def state(self) -> LeaseState:
        """
        The machine's state: a frozen value.
        """
        return self._state

    @property
    def endings(self) -> list[LeaseState]:
        """
        The states of the leases that have been succeeded and are not ended yet.
        """
        with self._lock:
            return self._endings.states()

    def now(self) -> float:
        """
        Return the present instant on the clock that the state is measured by.
        """
        return self._runtime.clock.now()

    def rotate(self) -> None:
        """
        Have a successor fetched now.
        """
        with self._lock:
            self._state = machine.advance(self._state, machine.RotationRequested(), self.now(), self.policy)
        self.wake()

    # --- Deciding ----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """
        Look at the lease now. Cheap; no I/O; from any thread.
        """
        self._runtime.call_at(self.now(), self._step)

    def _step(self) -> None:
        """
        Decide what is due, and hand it to the workers. Runs on the scheduler thread.
        """
        requests: list[Job] = []
        proofs: list[tuple[Hashable, Job]] = []
        with self._lock:
            if not self._running:
                return
            now = self.now()
            until = self._endings.step(now, requests)
            if not self._stopping:
                until = min(until, self._step_current(now, requests))
                until = min(until, self._look_around(now, requests, proofs))
                self._join(proofs)
            self._changed.notify_all()
            if self._handle is not None:
                self._handle.cancel()
            self._handle = None if until == math.inf else self._runtime.call_at(until, self._step)
        for job in requests:
            self._runtime.submit(self.source.lane, job)
        for lane, job in proofs:
            self._runtime.submit(lane, job)

    def _step_current(self, now: float, requests: list[Job]) -> float:
        lease = self._state.lease
        if lease is not None:
            known = machine.OwnerChanged(self.source.owner(lease))
            self._state = machine.advance(self._state, known, now, self.policy)
            if self._state.lease is None:
                self._vacate(lease, "the token that issued it is dead")
        action = machine.decide(self._state, now, self.policy)
        if isinstance(action, machine.Lapse):
            self._lapsed(now)
            action = machine.decide(self._state, now, self.policy)
        if not isinstance(action, machine.Wait):
            self._state = machine.advance(self._state, machine.Sent(), now, self.policy)
            request = partial(self._renew, action.lease) if isinstance(action, machine.Renew) else self._read
            requests.append(partial(self._guarded, request))
            action = machine.decide(self._state, now, self.policy)
        return action.until if isinstance(action, machine.Wait) else now

    def _look_around(self, now: float, requests: list[Job], proofs: list[tuple[Hashable, Job]]) -> float:
        """
        Tell the holders until when the lease is good, and inquire whether it is, where that is due.
        """
        self._foretell()
        asked = len(requests)
        until = self._inquiries.step(self._state.lease, now, requests)
        if len(requests) > asked:
            proofs.extend((holder.lane, holder.inquire) for holder in self._holders.alive())
        return until

    def _foretell(self) -> None:
        deadline = self._state.deadline if self._state.serving else math.inf
        for holder in self._holders.alive():
            holder.expect(deadline)

    def _lapsed(self, now: float) -> None:
        lease = self._state.lease
        assert lease is not None
        self._state = machine.advance(self._state, machine.Lapsed(), now, self.policy)
        self._chronicle.lapsed(lease.lease_id)
        for holder in self._holders.alive():
            holder.lapse(lease.increment)

    def _vacate(self, lease: Lease, reason: str) -> None:
        """
        Take a dead credential out of service: clients wait for its successor. The caller holds the lock.
        """
        self._credential = None
        self._holders.vacate()
        self._holders.report(PoolError(f"the lease was lost ({reason}), and there is no successor yet"))
        self._chronicle.lost(lease, reason)

    def _join(self, proofs: list[tuple[Hashable, Job]]) -> None:
        """
        Give the current credential to holders that came later. The caller holds the lock.
        """
        lease, credential = self._state.lease, self._credential
        if lease is None or credential is None or not self._state.serving or self._state.sent_at is not None:
            return
        proofs.extend(
            (holder.lane, partial(self._welcome, holder, credential, lease.lease_id))
            for holder in self._holders.late_comers(lease.lease_id)
        )

    # --- Requests, on workers ------------------------------------------------------------------------------

    def _guarded(self, request: Job) -> None:
        """
        Run *request*; whatever it raises, the machine hears of it, and tries again.
        """
        try:
            request()
        except Exception as error:
            logger.exception("%s: unexpected error", self.source.name)
            self._failed(error)
        if self._deserted:
            self._end_late()

    def _end_late(self) -> None:
        """
        Have revoked what a request brought after `detach` had stopped waiting for it.
        """
        with self._lock:
            late = self._endings.forget() if self._deserted else []
        for state in late:
            if state.lease is None or state.phase is machine.Phase.ENDED:
                continue
            try:
                self.source.revoke(state.lease)
            except Exception as error:  # noqa: BLE001 - a source of the application's own may raise anything
                logger.debug("%s: %s", self.source.name, error)
                self._left_to_time(state)

    def _read(self) -> None:
        try:
            issued = self.source.read(self.now())
        except VaultPoolError as error:
            self._failed(error)
            return
        if self._unchanged(issued):
            return
        holders = self._holders.alive()
        # The database may hang where Vault does not: it is waited for in a lane of its own.
        lane = holders[0].lane if holders else self.source.lane
        self._runtime.submit(lane, partial(self._guarded, partial(self._swap, issued)))

    def _unchanged(self, issued: Issued) -> bool:
        """
        Tell whether a look at a polled credential found the one that serves; who asked for a rotation gets one.
        """
        with self._lock:
            known = issued.credential == self._credential
            if not (issued.lease.polled and known) or self._state.wanted or self._stopping:
                return False
            event = machine.Unchanged(issued.lease, self._runtime.random())
            self._state = machine.advance(self._state, event, self.now(), self.policy)
        self._well()
        self.wake()
        return True

    def _swap(self, issued: Issued) -> None:
        """
        Prove *issued* with every holder, then have all of them swap; or none, while what they have is in force.

        Where it is not, those that can be served are; the others are tried again.
        """
        together = self._state.serving
        prepared, problem = ([], None) if self._stopping else self._holders.prove(issued.credential, together=together)
        if problem is not None and (together or not prepared):
            self._holders.discard(prepared)
            self._return(issued)
            if not isinstance(problem, VaultPoolError):
                raise problem
            self._failed(problem)
            return
        number = self._install(issued, prepared)
        if number is not None:
            self._well()
            self._chronicle.rotated(issued, number)
        self.wake()

    def _install(self, issued: Issued, prepared: list[tuple[Holder, Any]]) -> int | None:
        with self._lock:
            now = self.now()
            ending = self._endings.add(self._state, now, left=len(prepared), credential=self._credential)
            event = machine.Issued(issued.lease, self.source.owner(issued.lease), self._runtime.random())
            self._state = machine.advance(self._state, event, now, self.policy)
            self._credential = issued.credential
            self._foretell()  # before the first client is served, not at the next step
            number = self._holders.install(prepared, issued.lease.lease_id, partial(self._finished, ending))
            if self._stopping or self._deserted:
                self._surrender()
        return number

    def _return(self, issued: Issued) -> None:
        """
        Have a lease revoked whose credential did not prove itself.
        """
        event = machine.Issued(issued.lease, self.source.owner(issued.lease), self._runtime.random())
        with self._lock:
            now = self.now()
            self._endings.add(machine.advance(LeaseState(), event, now, self.policy), now)

    def _welcome(self, holder: Holder, credential: Credential, lease_id: str) -> None:
        """
        Prove the current credential with a *holder* that came later, and have it begin.
        """
        try:
            generation = holder.prepare(credential)
        except Exception as error:
            if not isinstance(error, VaultPoolError):
                logger.exception("%s: unexpected error", self.source.name)
            with self._lock:
                self._holders.not_served(holder)
            holder.report(error)
            if isinstance(error, LoginFailed) and error.refused:
                # Those who serve already may not log in for hours, and hence not notice.
                self.suspect(credential, Sign.REFUSAL)
            self._runtime.call_at(self.now() + self.policy.backoff_base, self._step)
            return
        with self._lock:
            # Otherwise a rotation overtook this one, and has served the holder already.
            wanted = self._holders.is_served(holder, lease_id)
            if wanted:
                holder.install(generation, lambda: None)
        if not wanted:
            holder.discard(generation)

    def _renew(self, lease: Lease) -> None:
        try:
            renewed = self.source.renew(lease, self.now())
        except LeaseLost as error:
            self.lease_lost(lease, str(error))
            return
        except VaultPoolError as error:
            self._failed(error, lease)
            return
        with self._lock:
            if not self._is_current(lease):
                return
            event = machine.Renewed(renewed.duration, renewed.stamped_at, self._runtime.random())
            self._state = machine.advance(self._state, event, self.now(), self.policy)
        self._well()
        self._chronicle.renewed(lease, renewed)
        self.wake()

    # --- Outcomes ----------------------------------------------------------------------------------------

    def _is_current(self, lease: Lease) -> bool:
        return self._state.lease is not None and self._state.lease.lease_id == lease.lease_id

    def over(self, credential: Credential, *, revoked: bool) -> None:
        """
        Tell the holders that the lease of retired connections is over. The caller holds the lock.
        """
        for holder in self._holders.alive():
            holder.end(credential, revoked=revoked)

    def _finished(self, ending: Ending) -> None:
        """
        Count one generation of *ending* less; called by the reaper of its holder.
        """
        with self._lock:
            self._endings.drained(ending)
        self.wake()

    def lease_lost(self, lease: Lease, reason: str) -> None:
        """
        Take *lease* out of service, if it still is in service, and have a successor fetched.
        """
        with self._lock:
            if not self._is_current(lease):
                return
            self._state = machine.advance(self._state, machine.Lost(), self.now(), self.policy)
            self._vacate(lease, reason)
        self.wake()

    def lost(self, credential: Credential, reason: str) -> None:
        """
        Do the same for the lease of *credential*.
        """
        with self._lock:
            lease = self._state.lease
            if lease is not None and credential == self._credential:
                self.lease_lost(lease, reason)

    def suspect(self, credential: Credential, sign: Sign) -> None:
        """
        Inquire what became of *credential*, if it is in service and the last inquiry is long enough ago.
        """
        with self._lock:
            lease = self._state.lease
            if lease is None or credential != self._credential or self._stopping or not self._state.serving:
                return
            job = self._inquiries.suspect(lease, sign, self.now())
        if job is not None:
            self._runtime.submit(self.source.lane, job)

    def want_successor(self, lease: Lease) -> None:
        """
        Have a successor of *lease* fetched, which serves until there is one.
        """
        with self._lock:
            if self._is_current(lease):
                self.rotate()

    def _failed(self, error: Exception, lease: Lease | None = None) -> None:
        """
        Take note of a request that failed: for *lease*, or for a successor.
        """
        draw = self._runtime.random()
        event = failed(error, draw) if isinstance(error, VaultPoolError) else machine.Failed(draw)
        with self._lock:
            if lease is not None and not self._is_current(lease):
                return
            now = self.now()
            self._state = machine.advance(self._state, event, now, self.policy)
            self._holders.report(error, attempt=lease is None)
            rest = self._state.deadline - now if self._state.serving else 0.0
        self._chronicle.failed(error, lease, rest)
        self.wake()

    def _well(self) -> None:
        """
        Take note that things work.
        """
        if self._chronicle.well():
            with self._lock:
                self._holders.report(None)

    def _tell(self, event: events.Event) -> None:
        self._holders.emit(event)


_watchers: dict[int, Watcher] = forking.table()
_watchers_lock = forking.lock()


def watcher_of(source: Source, policy: RenewalPolicy, runtime: Runtime, lookup_interval: float = math.inf) -> Watcher:
    """
    Return the watcher of *source*, to be given up by `forget`.

    Pools on one source share it, and so one lease. The first one's settings hold.
    """
    with _watchers_lock:
        known = _watchers.get(id(source))
        if known is None:
            # It holds the source, so that no other can get its id while it is listed.
            known = _watchers[id(source)] = Watcher(source, policy, runtime, lookup_interval)
        known.users += 1
        return known


def forget(watcher: Watcher) -> None:
    """
    Give up a watcher; it is dropped when nobody uses it any more.
    """
    with _watchers_lock:
        watcher.users -= 1
        if not watcher.users and _watchers.get(id(watcher.source)) is watcher:
            del _watchers[id(watcher.source)]
