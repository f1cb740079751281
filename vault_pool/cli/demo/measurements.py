"""
What the clients met: requests, failures, latency, and the pauses between two answers.
"""

from __future__ import annotations

import itertools
import math
import statistics
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

#: The length of the windows around rotations, in seconds, and of the calm ones between them.
WINDOW: Final = 1.5
#: The spans of which the throughput is told, in seconds.
SPAN: Final = 0.5

_FINEST: Final = 1e-5
_GROWTH: Final = math.log(1.05)


class Histogram:
    """
    How often which duration was seen, each to within 5 %. Not thread-safe.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """
        Count one duration.
        """
        self._counts[int(math.log(max(seconds, _FINEST) / _FINEST) / _GROWTH)] += 1

    def quantile(self, fraction: float) -> float | None:
        """
        Return the duration that *fraction* of all stayed below; None: there was none.
        """
        wanted = fraction * self._counts.total()
        seen = 0
        for bucket, times in sorted(self._counts.items()):
            seen += times
            if seen >= wanted:
                return _FINEST * math.exp((bucket + 0.5) * _GROWTH)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """
    Medians of the longest pauses, in seconds, of windows around rotations and of calm ones; None: there was no window.
    """

    gap: float | None
    calm: float | None


class Measurements:
    """
    All that is counted while clients run.

    Clients call `finished`, the pool's listener `rotated`; they do next to nothing there, so that measuring does not
    disturb what is measured. Everything else is for one thread, which calls `digest` from time to time.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.rotations: list[float] = []
        self.failures: Counter[str] = Counter()
        self.in_windows = Histogram()
        self.outside = Histogram()
        self._slow = 0
        self._lock = threading.Lock()  # guards _slow and failures
        self._fresh: deque[tuple[float, float]] = deque()
        self._settled: list[float] = []
        self._spans: Counter[int] = Counter()

    def finished(self, began: float, ended: float, *, fast: bool, failure: str | None) -> None:
        """
        Record a request; *failure* tells what went wrong.
        """
        if failure is None and fast:
            self._fresh.append((ended, ended - began))
            return
        with self._lock:
            if failure is not None:
                self.failures[failure] += 1
            else:
                self._slow += 1

    def rotated(self, at: float) -> None:
        """
        Record a rotation.
        """
        self.rotations.append(at)

    @property
    def failed(self) -> int:
        """
        How many requests failed.
        """
        with self._lock:
            return self.failures.total()

    @property
    def requests(self) -> int:
        """
        How many requests ended, well or not.
        """
        with self._lock:
            return len(self._settled) + len(self._fresh) + self._slow + self.failures.total()

    def digest(self, now: float) -> None:
        """
        Sort into histograms what finished so long ago that it is known whether a rotation was near.
        """
        rotations = list(self.rotations)
        while self._fresh and self._fresh[0][0] < now - WINDOW / 2:
            ended, latency = self._fresh.popleft()
            self._settled.append(ended)
            self._spans[self._span(ended)] += 1
            after = bisect_left(rotations, ended - WINDOW / 2)
            near = after < len(rotations) and rotations[after] <= ended + WINDOW / 2
            (self.in_windows if near else self.outside).add(latency)

    def throughput(self, now: float, spans: int) -> tuple[list[int], list[int]]:
        """
        Return how many fast requests and how many rotations there were in each of the last *spans* of `SPAN` seconds.

        Oldest first; only spans that are digested as a whole at *now*.
        """
        end = self._span(now - WINDOW / 2)
        rotations = Counter(self._span(at) for at in list(self.rotations))
        shown = range(max(0, end - spans), end)
        return [self._spans[number] for number in shown], [rotations[number] for number in shown]

    def _span(self, at: float) -> int:
        return int((at - self.began) / SPAN)

    def pauses(self) -> Pauses:
        """
        Return the pauses between fast requests; everything has to be digested.
        """
        return pauses(sorted(self._settled), self.rotations)


def pauses(finished: Sequence[float], rotations: Iterable[float], window: float = WINDOW) -> Pauses:
    """
    Measure windows that have a rotation in their middle, and as many as fit between them that have none.
    """
    if not finished:
        return Pauses(gap=None, calm=None)
    half = window / 2
    first, last = finished[0], finished[-1]
    inside = [moment for moment in sorted(rotations) if first + half <= moment <= last - half]
    gaps = [_longest_pause(finished, moment - half, moment + half) for moment in inside]
    calms: list[float] = []
    edges = [first, *(edge for moment in inside for edge in (moment - half, moment + half)), last]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        fitting = int(max(0.0, end - start) / window)
        calms += [_longest_pause(finished, start + n * window, start + (n + 1) * window) for n in range(fitting)]
    return Pauses(gap=statistics.median(gaps) if gaps else None, calm=statistics.median(calms) if calms else None)


def _longest_pause(finished: Sequence[float], start: float, end: float) -> float:
    inside = [start, *finished[bisect_left(finished, start) : bisect_right(finished, end)], end]
    return max(later - earlier for earlier, later in itertools.pairwise(inside))
