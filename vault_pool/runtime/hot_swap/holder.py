"""
A pool whose content can be replaced while it is used.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, cast, overload

from psycopg import Connection
from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam

from vault_pool.errors import ConfigurationError, PoolClosed, PoolTimeout, TooManyRequests
from vault_pool.runtime.hot_swap.budget import Budget
from vault_pool.runtime.hot_swap.generation import NOBODY_WAITS, Blueprint, Generation, closed
from vault_pool.runtime.hot_swap.reaper import Reaper
from vault_pool.runtime.hot_swap.tracking import take_back

if TYPE_CHECKING:
    from typing_extensions import Self

_REQUESTS_NUM = "requests_num"
_REQUESTS_ERRORS = "requests_errors"
_USAGE_MS = "usage_ms"
_MEASURES = frozenset({"pool_min", "pool_max", "pool_size", "pool_available", "requests_waiting"})
_NOT_SERVED = (PoolClosed, PoolTimeout, TooManyRequests)
_NotServed = PoolClosed | PoolTimeout | TooManyRequests | None


class Checkout(Generic[CT]):
    """
    The context manager of `HotSwapPool.connection`: one use, by one thread.

    A class and not a generator: stacked on psycopg_pool's own generator, a second one would cost a quarter more.
    """

    __slots__ = ("_conn", "_generation", "_holder", "_loan", "_timeout")

    def __init__(self, holder: HotSwapPool[CT], timeout: float | None) -> None:
        self._holder = holder
        self._timeout = timeout

    def __enter__(self) -> CT:
        holder = self._holder
        began = monotonic()
        with holder._lock:
            generation = holder._current
        if generation is None:
            conn, generation = holder._getconn_elsewhere(None, None, self._timeout, began)
        else:
            try:
                conn = generation.getconn(self._timeout)
            except _NOT_SERVED as error:
                conn, generation = holder._getconn_elsewhere(generation, error, self._timeout, began)
        self._conn = conn
        self._generation = generation
        self._loan = conn._loan = (monotonic(), get_ident())  # type: ignore[attr-defined]  # a record of ours
        if generation.foreign:
            generation.register(conn)
        return conn

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        conn, generation, loan = self._conn, self._generation, self._loan
        pool = generation.pool
        if getattr(conn, "_loan", None) is not loan or conn._pool is not pool:
            # The body gave it back by itself; by now it may be somebody else's.
            return
        try:
            conn.__exit__(exc_type, exc, tb)
        finally:
            if take_back(conn):
                generation.putconn(conn)
            pool._stats[_USAGE_MS] += int(1000.0 * (monotonic() - loan[0]))


def _shared(name: str, doc: str) -> Any:
    """
    Return a property for the setting *name*, which current and later generations share.
    """

    def get(self: HotSwapPool[Any]) -> Any:
        return self._setting(name)

    def put(self: HotSwapPool[Any], value: Any) -> None:
        self._set(name, value)

    return property(get, put, doc=doc)


class HotSwapPool(Generic[CT]):
    """
    Serve connections from the current pool while others retire.

    A drop-in for `psycopg_pool.ConnectionPool`: it takes the same arguments, or a ready pool, and has every public
    name of it with the same meaning (psycopg_pool's documentation), also across a swap. `replace` swaps the pool.
    *overlap* is the number of connections beyond *max_size* that a generation may use while it is being opened
    (default: *min_size*), *retire_timeout* the seconds after which it is logged who still holds a connection of a
    retired pool.

    Thread-safe. ``_lock`` guards the reference to the current generation; no I/O happens while it is held, and
    it is taken before any lock of a pool, of the budget or of the reaper.
    """

    @overload
    def __init__(
        self: HotSwapPool[Connection[Any]],
        conninfo: ConninfoParam = "",
        *,
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        reconnect_timeout: float = 300.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
        overlap: int | None = None,
        retire_timeout: float = 30.0,
    ) -> None: ...

    @overload
    def __init__(
        self: HotSwapPool[CT],
        conninfo: ConninfoParam = "",
        *,
        connection_class: type[CT],
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        reconnect_timeout: float = 300.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
        overlap: int | None = None,
        retire_timeout: float = 30.0,
    ) -> None: ...

    @overload
    def __init__(self: HotSwapPool[CT], conninfo: ConnectionPool[CT], *, retire_timeout: float = 30.0) -> None: ...

    def __init__(
        self,
        conninfo: ConninfoParam | ConnectionPool[Any] = "",
        *,
        connection_class: type[Any] = Connection,
        kwargs: KwargsParam | None = None,
        overlap: int | None = None,
        retire_timeout: float = 30.0,
        **options: Any,
    ) -> None:
        self._init_holder(retire_timeout)
        if isinstance(conninfo, ConnectionPool):
            if options or kwargs is not None or connection_class is not Connection or overlap is not None:
                raise ConfigurationError("a ready pool brings its own settings: give either a pool or its arguments")
            self._blueprint: Blueprint[CT] = Blueprint(conninfo=conninfo.conninfo)
            self._budget: Budget | None = None
            self._begin(Generation(conninfo, 1))
            return
        self._prepare(conninfo, connection_class, kwargs, overlap, options)
        self._begin(self._blueprint.build(1, cast("Budget", self._budget)))

    def _init_holder(self, retire_timeout: float) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._current: Generation[CT] | None = None
        self._closed = False
        self._pools: weakref.WeakSet[ConnectionPool[CT]] = weakref.WeakSet()
        self._past = Counter[str]()
        self._moved = 0
        self._vacant = 0
        self._retire_timeout = positive("retire_timeout", retire_timeout)

    def _prepare(
        self,
        conninfo: ConninfoParam,
        connection_class: type[CT],
        kwargs: KwargsParam | None,
        overlap: int | None,
        options: dict[str, Any],
    ) -> None:
        """
        Keep what generations are built from.
        """
        min_size = options.setdefault("min_size", 4)
        max_size = min_size if options.get("max_size") is None else options["max_size"]
        if overlap is None:
            overlap = min_size
        elif overlap < 1:
            raise ConfigurationError(f"overlap must be at least 1, not {overlap!r}: a swap needs room for one login")
        self._blueprint = Blueprint(
            conninfo=conninfo, connection_class=connection_class, kwargs=kwargs, options=options
        )
        self._budget = Budget(max_size, overlap)

    def _begin(self, generation: Generation[CT]) -> None:
        self._current = generation
        self._pools.add(generation.pool)
        self._name = generation.pool.name
        self._reaper = Reaper(self._name)

    def __repr__(self) -> str:
        number = self._current.number if self._current else 0
        return (
            f"<{type(self).__module__}.{type(self).__name__} {self.name!r}"
            f" generation {number}, {len(self._reaper.retiring())} retiring, at 0x{id(self):x}>"
        )

    # --- Swapping ----------------------------------------------------------------------------------------

    def replace(
        self, new_pool: ConnectionPool[CT], *, retire: bool = True, timeout: float = 30.0
    ) -> ConnectionPool[CT]:
        """
        Make *new_pool* the current one and return the old one.

        A pool that is not open is opened and waited for first, up to *timeout* seconds; when that fails
        (`PoolTimeout`) the current pool stays in place. Clients that queue on the old pool go on to the new one
        with what is left of their time; connections that are out come back to the old one and are closed.
        With *retire* a reaper thread does that, else the old pool is handed back untouched.
        """
        current = self._current
        if current is not None and new_pool is current.pool:
            raise ValueError(f"the pool {new_pool.name!r} is already the current one")
        if self._closed:
            raise closed(self.name)
        if new_pool.closed:
            new_pool.open(wait=True, timeout=timeout)
        return self._replace(Generation(new_pool, 0), retire=retire).pool

    def _replace(self, fresh: Generation[CT], *, retire: bool = True) -> Generation[CT]:
        """
        Make *fresh*, which is open and proven, the current generation; return the old one, or *fresh* if none.
        """
        with self._lock:
            if self._closed:
                raise closed(self.name)
            old, self._current = self._current, fresh
            fresh.opening = False
            fresh.number = fresh.number or (1 if old is None else old.number + 1)
            self._pools.add(fresh.pool)
            self._changed.notify_all()
        fresh.notify()
        if old is None:
            return fresh
        if retire:
            self._retire(old)
        return old

    def _retire(self, generation: Generation[CT]) -> None:
        finished = generation.on_finished

        def on_finished(done: Generation[CT]) -> None:
            self._collect(done)
            if finished is not None:
                finished(done)

        generation.on_finished = on_finished
        with self._lock:
            # Under the lock, since `_getconn_moved` changes the same limit.
            generation.begin_retiring()
        self._reaper.retire(generation, self._retire_timeout)

    def _collect(self, generation: Generation[CT]) -> None:
        """
        Keep what a generation has counted.
        """
        counted = Counter(_counters(generation.pool.pop_stats()))
        with self._lock:
            self._past.update(counted)

    # --- Checkout and return -----------------------------------------------------------------------------

    def connection(self, timeout: float | None = None) -> Checkout[CT]:
        """
        Return a context manager around a connection: `getconn`, commit or rollback, `putconn`.
        """
        return Checkout(self, timeout)

    def getconn(self, timeout: float | None = None) -> CT:
        """
        Obtain a connection within *timeout* seconds (default: the pool's), also when the pool is replaced meanwhile.

        Raises `PoolTimeout`, `TooManyRequests` or `PoolClosed` as psycopg_pool does.
        """
        return Checkout(self, timeout).__enter__()

    def _getconn_elsewhere(
        self,
        generation: Generation[CT] | None,
        error: _NotServed,
        timeout: float | None,
        began: float,
    ) -> tuple[CT, Generation[CT]]:
        """
        Go on after *generation* has not served, in the caller's one *timeout*, until one that is current has spoken.
        """
        whole = self.timeout if timeout is None else timeout
        deadline = began + whole
        seen = generation
        while True:
            current = self._next_generation(seen, deadline)
            moved = seen is not generation
            if isinstance(error, PoolTimeout) or monotonic() >= deadline:
                # The error names the whole time, not what was left of it for the last attempt.
                self._past[_REQUESTS_ERRORS] += 1
                raise PoolTimeout(f"couldn't get a connection after {whole:.2f} sec") from self._trouble()
            if current is seen and error is not None and not (moved and isinstance(error, TooManyRequests)):
                self._past[_REQUESTS_ERRORS] += 1
                raise error from self._trouble()
            assert current is not None
            self._moved += seen is not None
            seen = current
            try:
                return self._getconn_moved(seen, deadline - monotonic()), seen
            except _NOT_SERVED as again:
                error = again

    def _next_generation(self, seen: Generation[CT] | None, deadline: float) -> Generation[CT] | None:
        """
        Return the current generation, waiting until *deadline* while there is none.
        """
        with self._lock:
            if self._current is None and seen is None and 0 < self.max_waiting <= self._vacant:
                self._past[_REQUESTS_ERRORS] += 1
                raise TooManyRequests(f"the pool {self.name!r} has already {self._vacant} requests waiting")
            self._vacant += 1
            try:
                self._changed.wait_for(lambda: self._current or self._closed, max(0.0, deadline - monotonic()))
            finally:
                self._vacant -= 1
            if self._closed:
                self._past[_REQUESTS_ERRORS] += 1
                raise closed(self.name)
            return self._current or seen

    def _trouble(self) -> BaseException | None:
        """
        Return why checkouts may fail, as the cause of their errors.
        """
        return None

    def _getconn_moved(self, generation: Generation[CT], timeout: float) -> CT:
        """
        Check out for a client that another generation has sent on: the limit of waiting clients is not for it.

        The limit is raised by the number of such clients while they are at it, so it holds for all others.
        """
        pool = generation.pool
        with self._lock:
            limited = pool.max_waiting > 0 and not generation.retired
            if limited:
                pool.max_waiting += 1
        try:
            return generation.getconn(timeout)
        finally:
            if limited:
                with self._lock:
                    if pool.max_waiting != NOBODY_WAITS:
                        pool.max_waiting -= 1

    def putconn(self, conn: CT) -> None:
        """
        Return a connection to the pool that lent it, be it the current one or not.
        """
        pool = getattr(conn, "_pool", None)
        current = self._current
        if not (current is not None and pool is current.pool) and (pool is None or pool not in self._pools):
            where = f"it comes from pool {pool.name!r}" if pool else "it doesn't come from any pool"
            raise ValueError(f"can't return connection to pool {self.name!r}, {where}: {conn}")
        pool.putconn(conn)

    # --- Life --------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._generation().pool._open_implicit = False
        self.open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """
        Open the current pool; with *wait*, wait up to *timeout* seconds until it is full. Nothing if it is open.
        """
        if self._closed:
            raise PoolClosed("pool has already been opened/closed and cannot be reused")
        self._generation().pool.open(wait=wait, timeout=timeout)

    def wait(self, timeout: float = 30.0) -> None:
        """
        Wait up to *timeout* seconds until the pool is full; close it and raise `PoolTimeout` if it is not.
        """
        try:
            self._generation().pool.wait(timeout)
        except PoolTimeout:
            self.close()
            raise

    def close(self, timeout: float = 5.0) -> None:
        """
        Close the pool: clients that wait get `PoolClosed`, connections that are out are closed when they come back.

        Wait up to *timeout* seconds for each thread to end, as psycopg_pool does.
        """
        with self._lock:
            if self._current is not None and not self._current.pool._opened:
                return
            self._closed = True
            current = self._current
            self._changed.notify_all()
        if current is not None:
            current.pool.close(timeout)
        self._reaper.close(timeout)

    @property
    def closed(self) -> bool:
        """
        Whether the pool is closed, or not open yet.
        """
        return self._closed or self._current is None or self._current.pool.closed

    def _generation(self) -> Generation[CT]:
        with self._lock:
            current = self._current
        if current is None:
            raise PoolClosed(f"the pool {self.name!r} is not open yet")
        return current

    # --- What psycopg_pool's pool has besides --------------------------------------------------------------

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
        return self._blueprint.setting(name) if current is None else getattr(current.pool, name)

    def _set(self, name: str, value: Any) -> None:
        with self._lock:
            self._blueprint = self._blueprint.changed(name, value)
            if self._current is not None:
                setattr(self._current.pool, name, value)

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
        generation = self._current
        if generation is not None:
            generation.pool.resize(min_size, max_size)
        with self._lock:
            self._blueprint = self._blueprint.changed("min_size", min_size).changed("max_size", max_size)
        if self._budget is not None:
            self._budget.max_size = min_size if max_size is None else max_size
            self._budget.notify()

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
        return self._stats(lambda pool: pool.get_stats(), pop=False)

    def pop_stats(self) -> dict[str, int]:
        """
        Return the same as `get_stats`, and set the counters to zero.
        """
        return self._stats(lambda pool: pool.pop_stats(), pop=True)

    def _stats(self, read: Callable[[ConnectionPool[CT]], dict[str, int]], *, pop: bool) -> dict[str, int]:
        with self._lock:
            current = self._current
            total = Counter(self._past)
            moved = self._moved
            if pop:
                self._past = Counter()
                self._moved = 0
        measures = {"pool_min": self.min_size, "pool_max": self.max_size, "pool_size": 0, "pool_available": 0}
        for generation in [*self._reaper.retiring(), *([] if current is None else [current])]:
            stats = read(generation.pool)
            total.update(_counters(stats))
            if generation is current:
                measures = {key: value for key, value in stats.items() if key in _MEASURES}
        # A client that was sent on has asked each of the pools; the application sees one request.
        total[_REQUESTS_NUM] -= moved
        return {key: value for key, value in total.items() if value} | measures


def _counters(stats: dict[str, int]) -> dict[str, int]:
    """
    Return the counters among *stats*, without the errors: those that the application has seen are counted apart.
    """
    return {key: value for key, value in stats.items() if key not in _MEASURES and key != _REQUESTS_ERRORS}


def positive(setting: str, value: float) -> float:
    """
    Return *value*; raise `ConfigurationError` where it is no positive number of seconds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(f"{setting} must be a positive number of seconds, not {value!r}")
    return float(value)
