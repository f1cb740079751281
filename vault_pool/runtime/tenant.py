"""
What makes a `HotSwapPool` live by the credentials of a source.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic

from psycopg_pool.abc import CT
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from vault_pool.core.lease import Credential
from vault_pool.errors import LoginFailed, ProofFailed
from vault_pool.events import Event, GenerationRetired
from vault_pool.runtime.hot_swap import Generation, HotSwapPool
from vault_pool.runtime.hot_swap.doubt import Sign
from vault_pool.runtime.scheduler import Runtime

if TYPE_CHECKING:
    from vault_pool.runtime.watcher import Watcher

logger = logging.getLogger("vault_pool.pool")

#: For how long a new credential is tried, in seconds: a replica may learn of the role a moment later.
PROOF_TIMEOUT = 5.0
#: How long the rest of a generation may take to open, in seconds, once its credential is proven.
OPENING_TIMEOUT = 5.0
#: For how long, in seconds, a session that was asked beyond the end of its lease speaks for all of them.
GRACE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """
    What becomes of open sessions when the lease has ended and Vault does not answer.

    *keep* them, or close them at once. Where they are kept, *longest* is the number of seconds after which they are
    closed all the same, None: as long as the lease was granted for, `math.inf`: never.
    """

    keep: bool = True
    longest: float | None = math.inf


class Tenant(Generic[CT]):
    """
    The `Holder` by which a watcher sees a pool, and the `Witness` by which its generations are heard.

    The pool owns it, and it refers to the pool weakly.

    Thread-safe: the pool's lock guards *number* (of the current generation), *last_error* and *last_attempt* (why
    the last rotation failed), and the events that wait to be delivered; the pool's condition tells of their changes.
    """

    def __init__(
        self,
        pool: HotSwapPool[CT],
        source: str,
        runtime: Runtime,
        on_event: Callable[[Event], None] | None,
        outage: Outage | None = None,
    ) -> None:
        self._pool = weakref.ref(pool)
        self._lock = pool._lock
        self._changed = pool._changed
        self._source = source
        self._runtime = runtime
        self._on_event = on_event
        self._outage = outage or Outage()
        self._events: deque[Event] = deque()
        self._delivering = False
        self.watcher: Watcher | None = None
        # When the credential in force ends, as far as the watcher has said.
        self._deadline = math.inf
        self.number = 0
        self.last_error: Exception | None = None
        self.last_attempt: Exception | None = None

    def start_over(self) -> None:
        """
        Know of nothing, in a child of fork.
        """
        self._events.clear()
        self._delivering = False
        self._deadline = math.inf
        self.watcher = self.last_error = self.last_attempt = None
        self.number = 0

    @property
    def lane(self) -> Hashable:
        """
        What the database may hang on: each pool has its own.
        """
        return (self, "database")

    # --- Generations ---------------------------------------------------------------------------------------

    def prepare(self, credential: Credential) -> Generation[CT]:
        """
        Return an open and proven generation; raise `PoolError`.
        """
        pool = self._alive()
        number = self.number + 1
        budget = pool._budget
        assert budget is not None
        blueprint = pool._blueprint
        generation = blueprint.build(number, budget, credential=credential, name=f"{pool.name}-{number}")
        generation.opening = True
        make = blueprint.maker(credential)
        try:
            for attempt in Retrying(
                retry=retry_if_exception_type((LoginFailed, ProofFailed)),
                wait=wait_random_exponential(multiplier=0.1, max=1.0),
                stop=stop_after_delay(PROOF_TIMEOUT),
                sleep=self._pause,
                before_sleep=self._not_yet,
                reraise=True,
            ):
                with attempt:
                    generation.prove(make, credential.user, PROOF_TIMEOUT)
            # Where nobody serves, one connection is better than the wait for more of them.
            generation.open(OPENING_TIMEOUT, 1 if pool._current is None else pool.min_size)
        except BaseException:
            generation.discard()
            raise
        return generation

    def discard(self, prepared: Generation[CT]) -> None:
        """
        Close a generation that was prepared and will not serve.
        """
        prepared.discard()

    def install(self, prepared: Generation[CT], on_finished: Callable[[], None]) -> int | None:
        """
        Make *prepared* the current generation; see `Holder`.
        """
        pool = self._pool()
        with self._lock:
            serves, old = False, None
            if pool is not None and not pool.closed:
                serves, old = True, pool._current
                self.number, self.last_error = prepared.number, None
                prepared.witness = self
                prepared.good_until = self._deadline
                if old is not None:
                    old.on_finished = self._reporter(on_finished)
                # Under the lock: whoever closes the pool, or retires the old generation, comes before all of this or
                # after it.
                pool._replace(prepared)
        if not serves:
            # Closing may wait for threads, which has no place here: nobody has a connection of it.
            self._runtime.submit(self.lane, prepared.discard)
        if old is None:
            on_finished()
        return prepared.number if serves else None

    def _reporter(self, on_finished: Callable[[], None]) -> Callable[[Generation[CT]], None]:
        began = monotonic()

        def report(generation: Generation[CT]) -> None:
            seconds = monotonic() - began
            self.emit(GenerationRetired(source=self._source, generation=generation.number, seconds=seconds))
            on_finished()

        return report

    def vacate(self) -> None:
        """
        Retire the current generation without a successor: clients wait for one.
        """
        pool = self._pool()
        if pool is not None:
            pool._vacate(revoked=True)

    @property
    def closed(self) -> bool:
        """
        Whether the pool is gone, or closed.
        """
        pool = self._pool()
        return pool is None or pool.closed

    # --- What the connections see --------------------------------------------------------------------------

    def suspect(self, generation: Generation[CT], sign: Sign) -> None:
        """
        Have the watcher inquire, if *generation* is the one that serves.
        """
        watcher, credential = self.watcher, generation.credential
        if watcher is not None and credential is not None and self._current() is generation:
            watcher.suspect(credential, sign)

    def lost(self, generation: Generation[CT], reason: str) -> None:
        """
        Take *generation* out of service, and have a successor fetched.

        Nothing for one that does not serve: late news of a retired generation must not kill the healthy successor.
        """
        pool, watcher, credential = self._pool(), self.watcher, generation.credential
        if pool is None or not pool._vacate(generation, revoked=True):
            return
        if watcher is not None and credential is not None:
            watcher.lost(credential, reason)

    def late(self, generation: Generation[CT]) -> None:
        """
        Have the watcher look at the clock: a process that was stopped, or starved, is behind.
        """
        generation.good_until = self._runtime.clock.now() + GRACE
        watcher = self.watcher
        if watcher is not None:
            watcher.wake()

    def inquire(self) -> None:
        """
        Ask an idle session whether its role still exists.
        """
        current = self._current()
        if current is not None:
            current.inquire()

    def expect(self, deadline: float) -> None:
        """
        Let checkouts after *deadline* ask their session first.
        """
        self._deadline = deadline
        current = self._current()
        if current is not None:
            current.good_until = deadline

    # --- Without a successor -------------------------------------------------------------------------------

    def lapse(self, term: float) -> None:
        """
        Spare the open sessions of a lease that has ended, or close them, as the application wants it.
        """
        pool, current = self._pool(), self._current()
        if pool is None or current is None:
            return
        if not self._outage.keep:
            pool._vacate(current, revoked=True)
            return
        current.lapse()
        longest = term if self._outage.longest is None else self._outage.longest
        if longest < math.inf:
            over = partial(self._lapse_over, weakref.ref(current), longest)
            self._runtime.call_at(self._runtime.clock.now() + longest, over)

    def end(self, credential: Credential, *, revoked: bool) -> None:
        """
        Have the retired connections by *credential* ended at the retire deadline, if something is left to be ended.

        At its time, the end of a lease leaves a session without rights, unless it has assumed a role.
        """
        pool = self._pool()
        for generation in [] if pool is None else pool._reaper.retiring():
            if generation.credential == credential and (revoked or generation.role is not None):
                generation.revoked = True

    def _lapse_over(self, ref: weakref.ref[Generation[CT]], longest: float) -> None:
        pool, generation = self._pool(), ref()
        if pool is None or generation is None or not pool._vacate(generation, revoked=True):
            return
        logger.warning(
            "%s: %.0f s after the end of its lease, generation %d is closed: nobody could say whether it was revoked",
            pool.name,
            longest,
            generation.number,
        )

    def _current(self) -> Generation[CT] | None:
        pool = self._pool()
        return None if pool is None else pool._current

    def _alive(self) -> HotSwapPool[CT]:
        pool = self._pool()
        if pool is None or pool.closed:
            raise ProofFailed("the pool was closed meanwhile")
        return pool

    def _not_yet(self, retry_state: RetryCallState) -> None:
        """
        Keep why a proof failed, for those who wait and whose time may end before the attempts do.
        """
        outcome = retry_state.outcome
        error = None if outcome is None else outcome.exception()
        if isinstance(error, Exception):
            self.report(error)

    def _pause(self, seconds: float) -> None:
        """
        Sleep between two attempts; raise `ProofFailed` when the pool is closed meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: (pool := self._pool()) is None or pool.closed, seconds)
        self._alive()

    # --- Telling -------------------------------------------------------------------------------------------

    def report(self, error: Exception | None, *, attempt: bool = False) -> None:
        """
        Keep *error* as the reason that checkouts give until things work again; *attempt*: a rotation failed by it.
        """
        with self._changed:
            self.last_error = error
            if attempt:
                self.last_attempt = error
            self._changed.notify_all()

    def emit(self, event: Event) -> None:
        """
        Hand *event* to the application, in order, on a worker: a slow listener delays no lease.
        """
        if self._on_event is None:
            return
        with self._lock:
            self._events.append(event)
            if self._delivering:
                return
            self._delivering = True
        self._runtime.submit((self, "events"), self._deliver)

    def _deliver(self) -> None:
        listener: Any = self._on_event
        while True:
            with self._lock:
                if not self._events:
                    self._delivering = False
                    return
                event = self._events.popleft()
            try:
                listener(event)
            except Exception:
                logger.exception("on_event failed for %s", type(event).__name__)
