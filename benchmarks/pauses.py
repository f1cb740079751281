"""The longest pause around a rotation, against calm windows of the same pool under the same load."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import hvac
from psycopg_pool import ConnectionPool

from benchmarks.figures import Figure, median, percentile, ratio_of_medians
from benchmarks.load import Load, at
from benchmarks.servers import QUERY, ROLE, Servers

OURS = "VaultPool"
RAW = "raw ConnectionPool, never rotated"
SIZE = 8
#: The length of the windows, in seconds.
WINDOW = 3.5
#: How long a drained pool is given before its old role is dropped, in seconds: nothing tells when it is done.
BLIND_WAIT = 1.0
PAUSE_TARGET = 1.3
P99_TARGET = 1.3


@dataclass
class Contender:
    """A pool, how it rotates (None: never), and what its windows have shown; pauses and p99 in seconds."""

    pool: Any
    rotate: Callable[[], None] | None = None
    finish: Callable[[], None] = lambda: None
    pauses: list[float] = field(default_factory=list)
    calm: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    p99_calm: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    requests: int = 0
    failures: int = 0


def run(servers: Servers, *, quick: bool) -> Iterator[Figure]:
    options: dict[str, Any] = {"min_size": SIZE, "max_size": SIZE}
    with ExitStack() as stack:
        pool = stack.enter_context(servers.vault_pool(**options))
        raw = stack.enter_context(servers.raw(**options))
        raw.wait()
        contenders = {
            OURS: Contender(pool, pool.rotate),
            "one pool with callable kwargs and drain()": stack.enter_context(draining(servers, **options)),
            RAW: Contender(raw),
        }
        measure(contenders, 3 if quick else 12)
        dropped = settled(servers, 2)
    floor = contenders[RAW].calm
    for name, contender in contenders.items():
        yield from _figures(name, contender, floor, ours=name == OURS)
    yield Figure(what="old roles that were not dropped", value=dropped, samples=2, target=0)


@contextmanager
def draining(servers: Servers, **options: Any) -> Iterator[Contender]:
    """What one does without this library: new arguments for new connections, and hope for the old ones."""
    client = hvac.Client(servers.address, token=servers.token)
    leases: list[dict[str, Any]] = []

    def read() -> None:
        leases.append(client.secrets.database.generate_credentials(ROLE))

    def arguments() -> dict[str, str]:
        data = leases[-1]["data"]
        return {"user": data["username"], "password": data["password"]}

    def rotate() -> None:
        read()
        pool.drain()

    def finish() -> None:
        time.sleep(BLIND_WAIT)
        client.sys.revoke_lease(leases.pop(0)["lease_id"])

    read()
    with ConnectionPool(servers.conninfo, kwargs=arguments, open=True, **options) as pool:
        pool.wait()
        yield Contender(pool, rotate, finish)


def measure(contenders: dict[str, Contender], rounds: int) -> None:
    """Give each contender one block of load per round, in an order that is drawn anew."""
    order = list(contenders.values())
    for _ in range(rounds):
        random.shuffle(order)
        for contender in order:
            _block(contender, rotation_first=random.random() < 0.5)


def _block(contender: Contender, *, rotation_first: bool) -> None:
    """One window with a rotation in its middle and one without, under one load; the first requests count for none."""
    with Load(contender.pool, QUERY, SIZE) as load:
        start = time.monotonic() + 0.5
        if contender.rotate is None:
            at(start + WINDOW)
            windows = [(False, start)]
        else:
            calm, rotation = (start + WINDOW * 1.5, start) if rotation_first else (start, start + WINDOW)
            at(rotation + WINDOW / 2)
            began = time.monotonic()
            contender.rotate()
            swapped = time.monotonic()
            contender.took.append(swapped - began)
            contender.finish()
            windows = [
                (True, swapped - WINDOW / 2),
                (False, max(calm, swapped + WINDOW / 2) if rotation_first else calm),
            ]
            at(max(begin + WINDOW for _, begin in windows))
    contender.requests += len(load.finished) + len(load.failures)
    contender.failures += len(load.failures)
    for rotated, begin in windows:
        pause, durations = load.within(begin, begin + WINDOW)
        (contender.pauses if rotated else contender.calm).append(pause)
        (contender.p99 if rotated else contender.p99_calm).append(percentile(durations, 99))


def settled(servers: Servers, roles: int) -> int:
    """Return how many roles more than *roles* there are, once revocation had its time."""
    deadline = time.monotonic() + 10
    while (left := servers.roles() - roles) > 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _figures(name: str, contender: Contender, floor: list[float], *, ours: bool) -> Iterator[Figure]:
    yield median(f"{name}: longest pause, calm", _ms(contender.calm), "ms")
    if contender.rotate is not None:
        yield median(f"{name}: longest pause around a rotation", _ms(contender.pauses), "ms")
        yield ratio_of_medians(
            f"{name}: pause, rotation / calm", contender.pauses, contender.calm, target=PAUSE_TARGET if ours else None
        )
        yield ratio_of_medians(f"{name}: pause, rotation / calm raw pool", contender.pauses, floor)
        yield median(f"{name}: p99, calm", _ms(contender.p99_calm), "ms")
        yield ratio_of_medians(
            f"{name}: p99, rotation / calm", contender.p99, contender.p99_calm, target=P99_TARGET if ours else None
        )
        yield Figure(
            what=f"{name}: time until rotated",
            value=statistics.median(contender.took) * 1e3,
            unit="ms",
            samples=len(contender.took),
        )
    yield Figure(
        what=f"{name}: failed requests",
        value=contender.failures,
        unit=f"of {contender.requests}",
        target=0 if ours else None,
    )


def _ms(seconds: list[float]) -> list[float]:
    return [value * 1e3 for value in seconds]
