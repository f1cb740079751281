"""
What psycopg_pool's pool has besides checkout, return and life: settings, maintenance, statistics.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, cast

from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT

from vault_pool.errors import PoolClosed
from vault_pool.runtime.hot_swap.blueprint import Blueprint
from vault_pool.runtime.hot_swap.budget import Budget
from vault_pool.runtime.hot_swap.generation import Generation
from vault_pool.runtime.hot_swap.reaper import Reaper

_REQUESTS_NUM = "requests_num"
REQUESTS_ERRORS = "requests_errors"
_MEASURES = frozenset({"pool_min", "pool_max", "pool_size", "pool_available", "requests_waiting"})


_shared_names: list[str] = []


def _shared(name: str, doc: str) -> Any:
    """
    Return a property for the setting *name*, which current and later generations share.
    """
    _shared_names.append(name)

    def get(self: Surface[Any]) -> Any:
        return self._setting(name)

    def put(self: Surface[Any], value: Any) -> None:
        self._set(name, value)

    return property(get, put, doc=doc)


class Surface(Generic[CT]):
    """
    The names of `psycopg_pool.ConnectionPool` that mean the same whichever generation is current.

    Settings are those of the current pool, and its successors get them; counters go on across swaps.
    """

    _lock: threading.RLock
    _current: Generation[CT] | None
    _blueprint: Blueprint[CT]
    _budget: Budget | None
    # What the application said of it; None: as many as min_size.
    _overlap: int | None = None
    _reaper: Reaper
    _name: str
    # The counters of pools that are gone, and the errors that the application has seen …
    _past: Counter[str]
    # … and the generations whose counters are not among them yet.
    _counted: list[Generation[CT]]
    # How many times a client went on from one generation to another.
    _moved: int
    # Has a generation opened, in a child of fork whose parent's pool was open.
    _open_inherited: Callable[[], None]

    timeout = _shared("timeout", "Seconds that a checkout may take.")
    max_waiting = _shared("max_waiting", "How many clients may queue; 0: any number.")
    max_lifetime = _shared("max_lifetime", "Seconds after which a connection is replaced when it comes back.")
    max_idle = _shared("max_idle", "Seconds after which an unused connection beyond min_size is closed.")
    reconnect_timeout = _shared("reconnect_timeout", "Seconds for which a lost connection is tried again.")
    num_workers = _shared("num_workers", "Threads that maintain a generation.")
    close_returns = _shared("close_returns", "Whether close() of a connection gives it back.")
    kwargs = _shared("kwargs", "The connection arguments of the application.")
    conninfo = _shared("conninfo", "The connection string of the application.")

    check_connection = staticmethod(ConnectionPool.check_connection)
    worker = ConnectionPool.worker

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Tools that look inside psycopg_pool's pool (metrics, test suites) find the current one.
            current = self.__dict__.get("_current")
            if current is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(current.pool, name)

    def _setting(self, name: str) -> Any:
        current = self._current
        return self._blueprint.setting(name) if current is None else current.setting(name)

    def _set(self, name: str, value: Any) -> None:
        with self._lock:
            self._blueprint = self._blueprint.changed(name, value)
            if self._current is not None:
                self._current.change(name, value)

    def _bring_up_to_date(self, generation: Generation[CT]) -> None:
        """
        Have *generation* what the application has set since it was built. The caller holds the lock.
        """
        for name in _shared_names:
            generation.change(name, self._blueprint.setting(name))
        size = self._blueprint.setting("min_size"), self._blueprint.setting("max_size")
        if size != (generation.pool.min_size, generation.pool.max_size):
            generation.pool.resize(*size)

    @property
    def name(self) -> str:
        """
        The name by which logs and errors know the pool.
        """
        return self._name

    @property
    def connection_class(self) -> type[CT]:
        """
        The class of the connections that the application asked for.
        """
        current = self._current
        foreign = current is not None and current.foreign
        return cast("Generation[CT]", current).pool.connection_class if foreign else self._blueprint.connection_class

    @property
    def min_size(self) -> int:
        """
        The number of connections that the pool keeps open.
        """
        return cast("int", self._setting("min_size"))

    @property
    def max_size(self) -> int:
        """
        The number of connections up to which the pool grows.
        """
        return cast("int", self._setting("max_size"))

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """
        Change the size of the current pool and of its successors.
        """
        with self._lock:
            # Both raise ValueError where no pool could have this size.
            if self._current is None:
                ConnectionPool._check_size(cast("Any", self), min_size, max_size)
            else:
                self._current.pool.resize(min_size, max_size)
            self._blueprint = self._blueprint.changed("min_size", min_size).changed("max_size", max_size)
        if self._budget is not None:
            overlap = min_size if self._overlap is None else self._overlap
            self._budget.resize(min_size if max_size is None else max_size, overlap)

    def drain(self) -> None:
        """
        Replace the connections of the current pool by new ones, as psycopg_pool does; no change of credential.
        """
        self._generation().pool.drain()

    def check(self) -> None:
        """
        Verify the idle connections of the current pool, and replace those that are broken.
        """
        self._generation().pool.check()

    def reconnect_failed(self) -> None:
        """
        Call the application's ``reconnect_failed``, as psycopg_pool does after ``reconnect_timeout``.
        """
        self._generation().pool.reconnect_failed()

    def run_task(self, task: Any) -> None:
        """
        Run a maintenance task in a worker of the current pool.
        """
        self._generation().pool.run_task(task)

    def schedule_task(self, task: Any, delay: float) -> None:
        """
        Run a maintenance task in a worker of the current pool after *delay* seconds.
        """
        self._generation().pool.schedule_task(task, delay)

    def get_stats(self) -> dict[str, int]:
        """
        Return psycopg_pool's statistics: measures of the current pool, counters of all pools since the start.
        """
        return self._stats(pop=False)

    def pop_stats(self) -> dict[str, int]:
        """
        Return the same as `get_stats`, and set the counters to zero.
        """
        return self._stats(pop=True)

    def _stats(self, *, pop: bool) -> dict[str, int]:
        measures = {"pool_min": self.min_size, "pool_max": self.max_size, "pool_size": 0, "pool_available": 0}
        # Under the lock, so that a generation on its way to the past is counted once; pools need none for this.
        with self._lock:
            total = Counter(self._past)
            moved = self._moved
            if pop:
                self._past = Counter()
                self._moved = 0
            for generation in self._counted:
                stats = generation.pool.pop_stats() if pop else generation.pool.get_stats()
                total.update(counters(stats))
                if generation is self._current:
                    measures = {key: value for key, value in stats.items() if key in _MEASURES}
        # A client that was sent on has asked each of the pools; the application sees one request.
        total[_REQUESTS_NUM] -= moved
        return {key: value for key, value in total.items() if value} | measures

    def _generation(self) -> Generation[CT]:
        if self._current is None:
            self._open_inherited()
        with self._lock:
            current = self._current
        if current is None:
            raise PoolClosed(f"the pool {self.name!r} is not open yet")
        return current


def counters(stats: dict[str, int]) -> dict[str, int]:
    """
    Return the counters among *stats*, without the errors: those that the application has seen are counted apart.
    """
    return {key: value for key, value in stats.items() if key not in _MEASURES and key != REQUESTS_ERRORS}
