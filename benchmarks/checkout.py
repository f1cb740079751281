"""Checkout and return: what a holder adds to `ConnectionPool.connection()`, or saves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.figures import Figure, interleaved, median, ratios, timed
from benchmarks.servers import Servers
from vault_pool.runtime.hot_swap import HotSwapPool

RAW = "raw ConnectionPool"
SIZE = 8
NO_QUERY_TARGET = 0.95
THROUGHPUT_TARGET = 0.98


def run(servers: Servers, *, quick: bool) -> Iterator[Figure]:
    options: dict[str, Any] = {"min_size": SIZE, "max_size": SIZE, "kwargs": {"autocommit": True}}
    with ExitStack() as stack:
        pools: dict[str, Any] = {
            RAW: stack.enter_context(servers.raw(**options)),
            "HotSwapPool": stack.enter_context(servers.hot_swap(**options)),
            "HotSwapPool around a ready pool": stack.enter_context(HotSwapPool(servers.raw(**options))),
            "VaultPool": stack.enter_context(servers.vault_pool(**options)),
        }
        for pool in pools.values():
            pool.wait()
        yield from _one_thread("no query", pools, _nothing, 200, rounds=40 if quick else 500, target=NO_QUERY_TARGET)
        yield from _one_thread("SELECT 1", pools, _select, 15, rounds=20 if quick else 300, target=None)
        yield from _eight_threads(pools, 40, 8 if quick else 100)


def _one_thread(
    title: str, pools: dict[str, Any], use: Callable[[Any, int], None], times: int, *, rounds: int, target: float | None
) -> Iterator[Figure]:
    measure = {name: partial(_warm, use, pool, times) for name, pool in pools.items()}
    samples = interleaved(measure, rounds)
    raw = samples.pop(RAW)
    yield median(f"{title}, 1 thread: {RAW}", [took / times * 1e6 for took in raw], "us")
    for name, took in samples.items():
        yield ratios(f"{title}, 1 thread: {name} / raw", took, raw, target=target)


def _warm(use: Callable[[Any, int], None], pool: Any, times: int) -> float:
    """Time *use*, after some untimed ones: caches and specialised bytecode are still those of the last contender."""
    use(pool, times // 2)
    return timed(partial(use, pool, times))


def _eight_threads(pools: dict[str, Any], times: int, rounds: int) -> Iterator[Figure]:
    measure = {name: partial(_throughput, pool, SIZE, times) for name, pool in pools.items()}
    samples = interleaved(measure, rounds)
    raw = samples.pop(RAW)
    yield median(f"SELECT 1, {SIZE} threads: {RAW}", raw, "1/s")
    for name, reached in samples.items():
        yield ratios(
            f"SELECT 1, {SIZE} threads, throughput: {name} / raw",
            reached,
            raw,
            target=THROUGHPUT_TARGET,
            at_least=True,
        )


def _throughput(pool: Any, threads: int, times: int) -> float:
    """Return the requests per second of *threads* that start together and make *times* requests each."""
    barrier = threading.Barrier(threads + 1)

    def work() -> None:
        barrier.wait()
        _select(pool, times)
        barrier.wait()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    took = timed(barrier.wait)
    for worker in workers:
        worker.join()
    return threads * times / took


def _nothing(pool: Any, times: int) -> None:
    connection = pool.connection
    for _ in range(times):
        with connection():
            pass


def _select(pool: Any, times: int) -> None:
    connection = pool.connection
    for _ in range(times):
        with connection() as conn:
            conn.execute("SELECT 1")
