"""
Work that falls due at an instant.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from vault_pool.devserver.clock import Clock, ManualClock

# vault: 200 workers; a few show the same behaviour on a small machine.
_WORKERS: Final = 8
# The system's clock may be set; nothing is later than this because of it.
_LONGEST_WAIT: Final = 60.0


class Timers:
    """
    One instant per key, at which a function is called on a worker thread.

    With a `ManualClock` there are no threads: `step()` calls it itself. Thread-safe.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._heap: list[tuple[float, int, str]] = []
        # The number of the one entry of the heap that counts for a key; the others were replaced or cancelled.
        self._current: dict[str, tuple[int, Callable[[], None]]] = {}
        self._paused = False
        self._closed = False
        self._workers: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        if not isinstance(clock, ManualClock):
            self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="devserver-expiry")
            self._thread = threading.Thread(target=self._loop, name="devserver-timers", daemon=True)
            self._thread.start()

    def set(self, key: str, when: float, run: Callable[[], None]) -> None:
        """
        Call *run* at *when*, and nothing that was set for *key* before.
        """
        with self._changed:
            number = next(self._numbers)
            self._current[key] = number, run
            heapq.heappush(self._heap, (when, number, key))
            self._changed.notify()

    def cancel(self, key: str) -> None:
        """
        Do not run *key*.
        """
        with self._changed:
            self._current.pop(key, None)

    def pause(self, paused: bool) -> None:
        """
        Run nothing while *paused*; what falls due meanwhile runs afterwards.
        """
        with self._changed:
            self._paused = paused
            self._changed.notify()

    def step(self, seconds: float) -> None:
        """
        Move the manual clock by *seconds* and run what falls due on the way, each at its own instant.
        """
        if not isinstance(self._clock, ManualClock):
            raise TypeError("only a server with a ManualClock can be stepped")
        target = self._clock.now() + seconds
        while (run := self._pop(target)) is not None:
            run()
        self._clock.set(target)

    def close(self) -> None:
        """
        Run nothing any more; return when what was running has ended.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)

    def _pop(self, until: float) -> Callable[[], None] | None:
        with self._changed:
            when, key = self._next()
            if key is None or when > until or self._paused:
                return None
            if isinstance(self._clock, ManualClock):
                self._clock.set(when)
            heapq.heappop(self._heap)
            return self._current.pop(key)[1]

    def _next(self) -> tuple[float, str | None]:
        while self._heap:
            when, number, key = self._heap[0]
            if self._current.get(key, (None,))[0] == number:
                return when, key
            heapq.heappop(self._heap)
        return 0.0, None

    def _loop(self) -> None:
        assert self._workers is not None
        while True:
            with self._changed:
                if self._closed:
                    return
                when, key = self._next()
                wait = _LONGEST_WAIT if key is None or self._paused else when - self._clock.now()
                if wait > 0:
                    self._changed.wait(min(wait, _LONGEST_WAIT))
                    continue
            due = self._pop(self._clock.now())
            if due is not None:
                self._workers.submit(due)
