"""Closed-loop clients, and the times at which their requests ended."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psycopg import Error

if TYPE_CHECKING:
    from typing_extensions import Self


class Load:
    """
    *threads* that use *pool* without thinking, from `with` until its end.

    Afterwards `finished` holds (end, duration) of every request that went well, in order of their ends (monotonic
    seconds), and `failures` what the others raised.
    """

    def __init__(self, pool: Any, query: str, threads: int = 8) -> None:
        self.finished: list[tuple[float, float]] = []
        self.failures: list[Error] = []
        self._pool = pool
        self._query = query
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"load-{number}") for number in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.finished.sort()

    def _work(self) -> None:
        finished: list[tuple[float, float]] = []
        stopped, connection, query = self._stop.is_set, self._pool.connection, self._query
        while not stopped():
            began = time.monotonic()
            try:
                with connection() as conn:
                    conn.execute(query)
            except Error as error:
                self.failures.append(error)
                # A storm of failures would starve what is to recover.
                self._stop.wait(0.01)
            else:
                now = time.monotonic()
                finished.append((now, now - began))
        self.finished += finished

    def within(self, start: float, end: float) -> tuple[float, list[float]]:
        """Return the longest time in which nothing ended, and the durations of all requests that ended."""
        inside = [(at, took) for at, took in self.finished if start <= at <= end]
        edges = [start, *(at for at, _ in inside), end]
        return max(later - earlier for earlier, later in itertools.pairwise(edges)), [took for _, took in inside]


def at(moment: float, action: Callable[[], object] = lambda: None) -> None:
    """Do *action* when it is *moment*, in monotonic seconds."""
    time.sleep(max(0.0, moment - time.monotonic()))
    action()
