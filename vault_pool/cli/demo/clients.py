"""
The application's clients: threads that send one request after the other, each over one HTTP connection.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Final

from vault_pool.cli.demo.app import ITEMS
from vault_pool.cli.demo.measurements import Measurements

if TYPE_CHECKING:
    from typing_extensions import Self

FAST: Final = 6
SLOW: Final = 2
#: The pause of a client between an answer and its next request, in seconds. Without it Python's own lock would be the
#: bottleneck, and its queue all that one could measure.
THINKING: Final = 0.02
#: How long a client waits for an answer, in seconds; longer than a checkout may take.
_PATIENCE: Final = 60.0


class Clients:
    """
    `FAST` clients that order and `SLOW` ones that want reports, from `with` until its end.

    The end waits for the requests that are under way. Anything but a 2xx is a failure.
    """

    def __init__(self, port: int, measurements: Measurements) -> None:
        self._port = port
        self._measurements = measurements
        self._stop = threading.Event()
        paths = [*(_orders(number) for number in range(FAST)), *(itertools.repeat("/reports/") for _ in range(SLOW))]
        self._threads = [
            threading.Thread(target=self._run, args=(paths[n], n < FAST), name=f"demo-client-{n}", daemon=True)
            for n in range(FAST + SLOW)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, paths: Iterator[str], fast: bool) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE)) as connection:
            for path in paths:
                began = time.monotonic()
                failure = _post(connection, path)
                self._measurements.finished(began, time.monotonic(), fast=fast, failure=failure)
                if self._stop.wait(THINKING):
                    return


def _orders(number: int) -> Iterator[str]:
    """
    Return one client's orders, of items that no other client orders.
    """
    share = ITEMS // FAST
    return (f"/orders/{1 + number * share + item}" for item in itertools.cycle(range(share)))


def _post(connection: http.client.HTTPConnection, path: str) -> str | None:
    """
    Return what went wrong, if anything; after that the connection is a new one.
    """
    try:
        connection.request("POST", path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return type(error).__name__
    if 200 <= answer.status < 300:
        return None
    try:
        return f"{answer.status} {json.loads(body)['error']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status} {answer.reason}"
