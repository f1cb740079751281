"""
Load on a pool: fast and slow threads, what failed, and the longest pauses between two finished requests.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg import Error

if TYPE_CHECKING:
    from typing_extensions import Self

#: The length of the windows in which pauses are measured, in seconds.
WINDOW = 3.5


def small_transaction(conn: Any) -> None:
    """Read and write the table `items` of the test databases, each thread its own row."""
    me = threading.get_ident() % 1_000_000
    conn.execute("SELECT name FROM items WHERE id = %s", (me,)).fetchone()
    conn.execute("UPDATE items SET name = 'x' WHERE id = %s", (me,))


@dataclass
class Load:
    """
    Closed-loop clients of *pool*: *fast* threads with a small transaction, *slow* ones that take *slow_seconds*.

    `finished` are the instants (time.monotonic) at which fast requests ended, in order once the load has stopped;
    `failed` are the requests that failed: when they began and ended, and their words in `failures`.
    """

    pool: Any
    fast: int = 8
    slow: int = 2
    slow_seconds: float = 1.5
    think: float = 0.0
    request: Callable[[Any], None] = small_transaction
    failures: Counter[str] = field(default_factory=Counter)
    finished: list[float] = field(default_factory=list)
    failed: list[tuple[float, float, str]] = field(default_factory=list)
    slow_finished: int = 0
    longest_checkout: float = 0.0
    longest_request: float = 0.0

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            *(threading.Thread(target=self._run_fast, name=f"fast-{n}", daemon=True) for n in range(self.fast)),
            *(threading.Thread(target=self._run_slow, name=f"slow-{n}", daemon=True) for n in range(self.slow)),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), f"{thread.name} hangs"
        self.finished.sort()

    @property
    def requests(self) -> int:
        """All requests that ended, well or not."""
        return len(self.finished) + self.slow_finished + sum(self.failures.values())

    def _run_fast(self) -> None:
        finished: list[float] = []
        longest_checkout = longest_request = 0.0
        while not self._stop.is_set():
            began = served = time.monotonic()
            try:
                with self.pool.connection() as conn:
                    served = time.monotonic()
                    self.request(conn)
            except Error as error:
                self._fail("fast", error, began)
            else:
                finished.append(time.monotonic())
            longest_checkout = max(longest_checkout, served - began)
            longest_request = max(longest_request, time.monotonic() - began)
            if self.think:
                self._stop.wait(self.think)
        with self._lock:
            self.finished += finished
            self.longest_checkout = max(self.longest_checkout, longest_checkout)
            self.longest_request = max(self.longest_request, longest_request)

    def _run_slow(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                with self.pool.connection() as conn:
                    checkout = time.monotonic() - began
                    self.request(conn)
                    time.sleep(self.slow_seconds)
                    self.request(conn)
            except Error as error:
                self._fail("slow", error, began)
            else:
                with self._lock:
                    self.slow_finished += 1
                    self.longest_checkout = max(self.longest_checkout, checkout)

    def _fail(self, who: str, error: Error, began: float) -> None:
        words = f"{who}: {type(error).__name__} {error.sqlstate}: {' '.join(str(error).split())[:150]}"
        with self._lock:
            self.failures[words] += 1
            self.failed.append((began, time.monotonic(), words))
        # A storm of failures would starve what is to recover.
        self._stop.wait(0.01)


def longest_pause(finished: Sequence[float], start: float, end: float) -> float:
    """Return the longest time within [start, end] in which nothing finished."""
    inside = [start, *finished[bisect_left(finished, start) : bisect_right(finished, end)], end]
    return max(later - earlier for earlier, later in itertools.pairwise(inside))


@dataclass(frozen=True)
class Pauses:
    """The longest pauses, in seconds, of windows around rotations and of calm ones; medians and all of them."""

    rotations: list[float]
    calm: list[float]

    @property
    def gap(self) -> float:
        return statistics.median(self.rotations) if self.rotations else 0.0

    @property
    def quiet(self) -> float:
        return statistics.median(self.calm) if self.calm else 0.0

    @property
    def ratio(self) -> float:
        return self.gap / self.quiet if self.quiet else 0.0


def pauses(finished: Sequence[float], rotations: Iterable[float], window: float = WINDOW) -> Pauses:
    """Measure windows that have a rotation in their middle, and as many as fit between them that have none."""
    if not finished:
        return Pauses([], [])
    half = window / 2
    first, last = finished[0], finished[-1]
    inside = [moment for moment in sorted(rotations) if first + half <= moment <= last - half]
    around = [longest_pause(finished, moment - half, moment + half) for moment in inside]
    calm: list[float] = []
    edges = [first, *(edge for moment in inside for edge in (moment - half, moment + half)), last]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        at = start
        while at + window <= end:
            calm.append(longest_pause(finished, at, at + window))
            at += window
    return Pauses(around, calm)
