"""
A clock that stands still, and a runtime that runs when it is told to.
"""

from __future__ import annotations

import heapq
import itertools


class FakeClock:
    """A clock that a test moves."""

    def __init__(self, start=1000.0):
        self.instant = start

    def now(self):
        return self.instant


class Handle:
    def __init__(self, fn):
        self.fn = fn

    def cancel(self):
        self.fn = None


class FakeRuntime:
    """`advance(seconds)` lets time pass, and makes the calls and runs the jobs that fall due on the way."""

    def __init__(self, draw=0.5):
        self.clock = FakeClock()
        self.draw = draw
        self.lanes = []
        self._calls = []
        self._order = itertools.count()
        self._jobs = []

    def call_at(self, when, fn):
        handle = Handle(fn)
        heapq.heappush(self._calls, (when, next(self._order), handle))
        return handle

    def submit(self, lane, fn):
        self.lanes.append(lane)
        self._jobs.append(fn)

    def random(self):
        return self.draw

    @property
    def waiting(self):
        """How many calls are still to come."""
        return sum(handle.fn is not None for _, _, handle in self._calls)

    def advance(self, seconds):
        end = self.clock.instant + seconds
        for _ in range(10_000):
            while self._jobs:
                self._jobs.pop(0)()
            if not self._calls or self._calls[0][0] > end:
                self.clock.instant = end
                return
            when, _, handle = heapq.heappop(self._calls)
            self.clock.instant = max(self.clock.instant, when)
            if handle.fn is not None:
                handle.fn()
        raise AssertionError("a hot loop")
