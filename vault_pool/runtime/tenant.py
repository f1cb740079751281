"""
What makes a `HotSwapPool` live by the credentials of a source.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Any, Generic

from psycopg_pool.abc import CT
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from vault_pool.core.lease import Credential
from vault_pool.errors import LoginFailed, ProofFailed
from vault_pool.events import Event, GenerationRetired
from vault_pool.runtime.hot_swap import Generation, HotSwapPool
from vault_pool.runtime.scheduler import Runtime

logger = logging.getLogger("vault_pool.pool")

#: For how long a new credential is tried, in seconds: a replica may learn of the role a moment later.
PROOF_TIMEOUT = 5.0
#: How long the rest of a generation may take to open, in seconds, once its credential is proven.
OPENING_TIMEOUT = 5.0


class Tenant(Generic[CT]):
    """
    The `Holder` by which a watcher sees a pool. The pool owns it, and it refers to the pool weakly.

    Thread-safe: the pool's lock guards *number* (of the current generation), *last_error* and *last_attempt* (why
    the last rotation failed), and the events that wait to be delivered; the pool's condition tells of their changes.
    """

    def __init__(
        self, pool: HotSwapPool[CT], source: str, runtime: Runtime, on_event: Callable[[Event], None] | None
    ) -> None:
        self._pool = weakref.ref(pool)
        self._lock = pool._lock
        self._changed = pool._changed
        self._source = source
        self._runtime = runtime
        self._on_event = on_event
        self._events: deque[Event] = deque()
        self._delivering = False
        self.number = 0
        self.last_error: Exception | None = None
        self.last_attempt: Exception | None = None

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
                    generation.prove(make, credential.user)
            generation.open(OPENING_TIMEOUT)
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
            closed = pool is None or pool.closed
            old = None if pool is None else pool._current
            if not closed:
                self.number = prepared.number
                self.last_error = None
        if pool is None or closed:
            # Closing may wait for threads, which has no place here: nobody has a connection of it.
            self._runtime.submit(self.lane, prepared.discard)
            on_finished()
            return None
        if old is not None:
            old.on_finished = self._reporter(on_finished)
        pool._replace(prepared)
        if old is None:
            on_finished()
        return prepared.number

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
            pool._vacate()

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
