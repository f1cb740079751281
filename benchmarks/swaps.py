"""`replace()`: how long the call takes, and what thousands of them leave behind."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from psycopg_pool import ConnectionPool

from benchmarks.figures import Figure, median, no_collection, percentile, timed
from benchmarks.servers import Servers
from vault_pool.runtime.hot_swap import HotSwapPool

REPLACE_TARGET = 10.0
RSS_TARGET = 1.0
#: So many retired pools may wait for the reaper: each still has its threads.
BACKLOG = 3


def replace(servers: Servers, *, quick: bool) -> Iterator[Figure]:
    """
    Time the call alone, its successor open already.

    In a row it costs what its instructions cost. Alone, as in life, it meets cold caches besides. Clients wait for
    neither: the lock is held for one assignment.
    """
    with HotSwapPool(servers.raw(min_size=0, max_size=1)) as holder:
        alone = [_replace(servers, holder, 1, retiring=0)[0] for _ in range(30 if quick else 200)]
        # A generation that cannot finish keeps the reaper.
        with holder.connection():
            batches = [_replace(servers, holder, 10, retiring=1)[1:] for _ in range(5 if quick else 40)]
    in_a_row = [took for batch in batches for took in batch]
    yield median("replace(), in a row", in_a_row, "us", target=REPLACE_TARGET)
    yield Figure(what="replace(), in a row, p99", value=percentile(in_a_row, 99), unit="us", samples=len(in_a_row))
    yield median("replace(), alone", alone, "us")


def _replace(servers: Servers, holder: HotSwapPool, times: int, *, retiring: int) -> list[float]:
    successors = [servers.raw(min_size=0, max_size=1) for _ in range(times)]
    with no_collection():
        took = [timed(partial(holder.replace, successor)) * 1e6 for successor in successors]
    _catch_up(holder, retiring)
    return took


def leak(servers: Servers, *, quick: bool) -> Iterator[Figure]:
    """Count before and after, in a process that has done nothing else; Linux only."""
    if not Path("/proc/self/statm").exists():
        return
    swaps = 500 if quick else 10_000
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        (threads, files, rss), took = executor.submit(_swap, servers.admin, swaps).result()
    yield Figure(what=f"threads after {swaps} replace()", value=threads, unit="more", samples=swaps, target=0)
    yield Figure(what=f"file descriptors after {swaps} replace()", value=files, unit="more", samples=swaps, target=0)
    yield Figure(what=f"RSS after {swaps} replace()", value=rss, unit="MiB more", samples=swaps, target=RSS_TARGET)
    yield Figure(what="replace(), open and close included", value=took / swaps * 1e3, unit="ms", samples=swaps)


def _swap(conninfo: str, swaps: int) -> tuple[tuple[float, float, float], float]:
    with HotSwapPool(conninfo, min_size=0, max_size=1) as holder:
        _replace_often(holder, conninfo, 300)
        before = _holdings()
        took = timed(lambda: _replace_often(holder, conninfo, swaps))
        after = _holdings()
    threads, files, rss = (late - early for late, early in zip(after, before, strict=True))
    return (threads, files, rss), took


def _replace_often(holder: HotSwapPool, conninfo: str, times: int) -> None:
    for _ in range(times):
        holder.replace(ConnectionPool(conninfo, min_size=0, max_size=1, open=False))
        _catch_up(holder, BACKLOG)
    _catch_up(holder, 0)


def _catch_up(holder: HotSwapPool, backlog: int) -> None:
    while len(holder._reaper.retiring()) > backlog:
        time.sleep(0.0005)


def _holdings() -> tuple[int, int, float]:
    """Return the numbers of threads and file descriptors, and RSS in MiB."""
    gc.collect()
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), rss
