"""
A runtime without threads: what falls due and what is submitted runs when the test says so.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable

from vault_pool.runtime.scheduler import Handle


class SteppedRuntime:
    """A `Runtime` whose clock is set by hand; jobs wait in `jobs` until `work` runs them."""

    def __init__(self) -> None:
        self.clock = self
        self.instant = 100.0
        self.jobs: deque[tuple[Hashable, Callable[[], None]]] = deque()
        self.users = 0
        self.draw = 0.5
        self._heap: list[tuple[float, int, Handle]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self.instant

    def random(self) -> float:
        return self.draw

    def acquire(self) -> None:
        self.users += 1

    def release(self, timeout: float = 5.0) -> None:
        self.users -= 1

    def call_at(self, when: float, fn: Callable[[], None]) -> Handle:
        handle = Handle(fn)
        heapq.heappush(self._heap, (when, next(self._order), handle))
        return handle

    def submit(self, lane: Hashable, fn: Callable[[], None]) -> None:
        self.jobs.append((lane, fn))

    def decide(self) -> None:
        """Make the calls that are due."""
        while self._heap and self._heap[0][0] <= self.instant:
            heapq.heappop(self._heap)[2].run()

    def work(self) -> None:
        """Run one job, and what falls due by it."""
        self.jobs.popleft()[1]()
        self.decide()

    def settle(self) -> None:
        """Run until there is nothing to do at this instant."""
        self.decide()
        while self.jobs:
            self.work()

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, stopping at each call that falls due, and settle each time."""
        end = self.instant + seconds
        while self._heap and self._heap[0][0] <= end:
            self.instant = max(self.instant, self._heap[0][0])
            self.settle()
        self.instant = end
        self.settle()

    @property
    def upcoming(self) -> float | None:
        """The instant of the next call that was not cancelled."""
        return min((when for when, _, handle in self._heap if not handle.cancelled), default=None)
