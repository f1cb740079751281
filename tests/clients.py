"""
Clients in a closed loop that do not pause after a failure, and a record of every request.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.load import small_transaction

if TYPE_CHECKING:
    from typing_extensions import Self


class Request(NamedTuple):
    """One request: when it was made, when it had its connection (None: never), when it ended, and by which error."""

    made: float
    served: float | None
    ended: float
    error: Exception | None


@dataclass
class Clients:
    """
    *threads* clients of *pool*; each makes one request after the other, by `pool.run` if *run*.

    *breaking*: sessions are broken by others; what was committing then is run again, as it only reads. Instants are
    time.monotonic's. `requests` is complete once the `with` block has been left.
    """

    pool: Any
    threads: int = 8
    run: bool = False
    request: Callable[[Any], Any] = small_transaction
    breaking: bool = False
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._records: list[list[Request]] = [[] for _ in range(self.threads)]
        self._threads = [
            threading.Thread(target=self._loop, args=[record], name=f"client-{number}", daemon=True)
            for number, record in enumerate(self._records)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), f"{thread.name} hangs"
        self.requests = sorted((request for record in self._records for request in record), key=lambda r: r.ended)

    def _loop(self, record: list[Request]) -> None:
        while not self._stop.is_set():
            record.append(self._one())

    def _one(self) -> Request:
        made = time.monotonic()
        served: list[float] = []

        def request(conn: Any) -> None:
            served.append(time.monotonic())
            self.request(conn)

        error: Exception | None = None
        try:
            if self.run:
                self.pool.run(request, retry_unknown_commit=self.breaking)
            else:
                with self.pool.connection() as conn:
                    request(conn)
        except Exception as raised:  # noqa: BLE001 - it is what is counted
            error = raised
        return Request(made, served[-1] if served else None, time.monotonic(), error)

    @property
    def done(self) -> int:
        """How many requests have ended so far."""
        return sum(len(record) for record in self._records)

    def failed(self) -> list[Request]:
        """Return the requests that failed."""
        return [request for request in self.requests if request.error is not None]

    def failures(self) -> Counter[str]:
        """Return how often each error was met."""
        return Counter(
            f"{type(r.error).__name__} {getattr(r.error, 'sqlstate', None)}: {' '.join(str(r.error).split())[:120]}"
            for r in self.failed()
        )

    def between(self, start: float, end: float) -> list[Request]:
        """Return the requests that ended within [start, end)."""
        return [request for request in self.requests if start <= request.ended < end]


class Toll(NamedTuple):
    """
    What a revocation cost: how many requests failed, how many of them began after the first of them had ended, and
    the seconds from that to the end of the first request that began after it and was well.
    """

    failed: int
    late: int
    dark: float


def toll(requests: list[Request]) -> Toll:
    """Return what happened among *requests*, which are in the order of their ends."""
    failed = [request for request in requests if request.error is not None]
    if not failed:
        return Toll(0, 0, 0.0)
    first = failed[0].ended
    late = [request for request in failed if request.served is None or request.served > first]
    well = [r.ended for r in requests if r.error is None and r.served is not None and r.served > first]
    return Toll(len(failed), len(late), well[0] - first if well else float("inf"))
