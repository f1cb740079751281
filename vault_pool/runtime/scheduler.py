"""
One thread that knows when, and threads on demand that do the work.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from contextlib import suppress

from vault_pool.runtime import forking
from vault_pool.runtime.clock import Clock, SystemClock

logger = logging.getLogger("vault_pool.scheduler")

#: The longest sleep of the scheduler: after the machine was suspended it looks at the clock this soon.
LONGEST_SLEEP = 5.0
#: How many jobs of one lane run at once. What hangs holds up at most its own lane.
LANE_WIDTH = 8
#: How long a worker waits for another job before it ends.
WORKER_IDLE = 2.0


class Handle:
    """
    A call that was asked for; `cancel` it to have it forgotten. Thread-safe.
    """

    __slots__ = ("_fn",)

    def __init__(self, fn: Callable[[], None]) -> None:
        self._fn: Callable[[], None] | None = fn

    def cancel(self) -> None:
        """
        Forget the call, unless it has begun.
        """
        self._fn = None

    def run(self) -> None:
        """
        Make the call, once.
        """
        fn, self._fn = self._fn, None
        if fn is not None:
            fn()

    @property
    def cancelled(self) -> bool:
        """
        Whether there is nothing left to call.
        """
        return self._fn is None


class Scheduler:
    """
    A heap of calls, each with its instant; `run_due` makes those that are due.

    Thread-safe: ``_wakeup`` guards the heap. The calls run outside it, do no I/O, and hand work to `Workers`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wakeup = threading.Condition(threading.Lock())
        self._heap: list[tuple[float, int, Handle]] = []
        self._order = itertools.count()
        self._stopped = False
        forking.watch(self)

    def start_over(self) -> None:
        """
        Make no more calls: in a child of fork, they are the parent's.
        """
        forking.renew(self._wakeup)
        self._heap.clear()
        self._stopped = True

    def call_at(self, when: float, fn: Callable[[], None]) -> Handle:
        """
        Have *fn* called at the instant *when*, or at once where that has passed.
        """
        handle = Handle(fn)
        with self._wakeup:
            heapq.heappush(self._heap, (when, next(self._order), handle))
            if self._heap[0][2] is handle:
                self._wakeup.notify()
        return handle

    def run_due(self, now: float) -> float | None:
        """
        Make the calls that are due at *now*, in order, and return the instant of the next one, if any.
        """
        while True:
            with self._wakeup:
                while self._heap and self._heap[0][2].cancelled:
                    heapq.heappop(self._heap)
                if not self._heap or self._heap[0][0] > now:
                    return self._heap[0][0] if self._heap else None
                handle = heapq.heappop(self._heap)[2]
            try:
                handle.run()
            except Exception:
                # One lease's bug must not end the thread that all leases depend on.
                logger.exception("vault_pool: a scheduled call failed")

    def run(self) -> None:
        """
        Make calls as they fall due, until `stop`. This is the body of the scheduler thread.
        """
        while True:
            upcoming = self.run_due(self._clock.now())
            with self._wakeup:
                if self._stopped:
                    return
                if self._heap and self._heap[0][0] != upcoming:
                    continue
                pause = LONGEST_SLEEP if upcoming is None else upcoming - self._clock.now()
                if pause > 0:
                    self._wakeup.wait(min(pause, LONGEST_SLEEP))

    def stop(self) -> None:
        """
        End `run`, now if it sleeps.
        """
        with self._wakeup:
            self._stopped = True
            self._wakeup.notify_all()


class Workers:
    """
    Threads that run jobs; they come when a job finds none idle and go after `WORKER_IDLE` seconds without one.

    Thread-safe: ``_changed`` guards the queue and the counts. At most `LANE_WIDTH` jobs of one lane run at a time,
    so a server that hangs can hold up the jobs that need it, and no others.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._jobs: deque[tuple[Hashable, Callable[[], None]]] = deque()
        self._running: Counter[Hashable] = Counter()
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._numbers = itertools.count(1)
        self._stopped = False
        forking.watch(self)

    def start_over(self) -> None:
        """
        Run no more jobs: in a child of fork, they are the parent's. One that forked ends with what it does.
        """
        forking.renew(self._changed)
        self._jobs.clear()
        self._threads.clear()
        self._idle = 0
        self._stopped = True

    def submit(self, lane: Hashable, fn: Callable[[], None]) -> None:
        """
        Have *fn* run on a worker as soon as its *lane* has room.
        """
        with self._changed:
            self._jobs.append((lane, fn))
            runnable = sum(1 for waiting, _ in self._jobs if self._running[waiting] < LANE_WIDTH)
            if self._idle >= runnable:
                self._changed.notify()
                return
            thread = threading.Thread(target=self._work, name=f"vault_pool-worker-{next(self._numbers)}", daemon=True)
            # Under the lock: `stop` must not meet a thread that is listed and cannot be joined yet.
            with suppress(RuntimeError):
                thread.start()
                self._threads.add(thread)
                return
        # Since Python 3.12 no thread can be started once the interpreter has begun to exit: the caller works.
        self._work(until_empty=True)

    def _take(self) -> tuple[Hashable, Callable[[], None]] | None:
        """
        Return the first job whose lane has room. The caller holds ``_changed``.
        """
        for index, (lane, fn) in enumerate(self._jobs):
            if self._running[lane] < LANE_WIDTH:
                del self._jobs[index]
                self._running[lane] += 1
                return lane, fn
        return None

    def _next(self, *, until_empty: bool) -> tuple[Hashable, Callable[[], None]] | None:
        with self._changed:
            while True:
                if (job := self._take()) is not None or until_empty:
                    return job
                self._idle += 1
                heard = not self._stopped and self._changed.wait(WORKER_IDLE)
                self._idle -= 1
                if not heard and (job := self._take()) is not None:
                    return job
                if not heard:
                    self._threads.discard(threading.current_thread())
                    return None

    def _work(self, *, until_empty: bool = False) -> None:
        while (job := self._next(until_empty=until_empty)) is not None:
            lane, fn = job
            try:
                fn()
            except Exception:
                logger.exception("vault_pool: a job failed")
            finally:
                del fn, job
                with self._changed:
                    self._running[lane] -= 1
                    if not self._running[lane]:
                        del self._running[lane]
                    self._changed.notify()

    def stop(self, timeout: float) -> None:
        """
        Let the workers end when the queue is empty, and wait up to *timeout* seconds in all for them.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            threads = list(self._threads)
        _join(threads, timeout)


def _join(threads: list[threading.Thread], timeout: float) -> None:
    deadline = SystemClock().now() + timeout
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - SystemClock().now()))


class Runtime:
    """
    The clock, the scheduler and the workers that all leases of a process share.

    Threads exist only between the first `acquire` and the last `release`. Thread-safe: ``_lock`` guards the
    count of users and the pair of scheduler and workers that serves them.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._begin()
        forking.watch(self)

    def _begin(self) -> None:
        self._users = 0
        self._scheduler = Scheduler(self.clock)
        self._workers = Workers()
        self._thread: threading.Thread | None = None
        self._random = random.Random()  # noqa: S311 - jitter, not cryptography

    def start_over(self) -> None:
        """
        Be without users, in a child of fork: its own will come. Chance begins anew, or all children would agree.
        """
        forking.renew(self._lock)
        self._begin()

    def acquire(self) -> None:
        """
        Count one more user; the first starts the scheduler thread.
        """
        with self._lock:
            self._users += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._scheduler.run, name="vault_pool-scheduler", daemon=True)
                self._thread.start()

    def release(self, timeout: float = 5.0) -> None:
        """
        Count one user less; the last one out ends the threads, waiting up to *timeout* seconds for them.
        """
        with self._lock:
            self._users -= 1
            if self._users > 0 or self._thread is None:
                return
            thread, self._thread = self._thread, None
            scheduler, self._scheduler = self._scheduler, Scheduler(self.clock)
            workers, self._workers = self._workers, Workers()
        scheduler.stop()
        _join([thread], timeout)
        workers.stop(timeout)

    def call_at(self, when: float, fn: Callable[[], None]) -> Handle:
        """
        Have *fn*, which must do no I/O, called at the instant *when* by the scheduler thread.
        """
        return self._scheduler.call_at(when, fn)

    def submit(self, lane: Hashable, fn: Callable[[], None]) -> None:
        """
        Have *fn* run on a worker thread. *lane* names what it may hang on.
        """
        self._workers.submit(lane, fn)

    def random(self) -> float:
        """
        Return a draw out of [0, 1), for jitter.
        """
        return self._random.random()


#: What pools use unless they are given another.
shared = Runtime()
