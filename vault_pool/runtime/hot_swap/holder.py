"""
A pool whose content can be replaced while it is used.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable
from time import monotonic, sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, cast, overload

from psycopg import Connection
from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam

from vault_pool.errors import ConfigurationError, PoolClosed, PoolError, PoolTimeout, TooManyRequests
from vault_pool.runtime import forking
from vault_pool.runtime.hot_swap.assumed import AssumedRole
from vault_pool.runtime.hot_swap.blueprint import Blueprint
from vault_pool.runtime.hot_swap.budget import Budget
from vault_pool.runtime.hot_swap.checkout import NOT_SERVED, Checkout, NotServed
from vault_pool.runtime.hot_swap.generation import Generation, GenerationPool
from vault_pool.runtime.hot_swap.reaper import Reaper
from vault_pool.runtime.hot_swap.surface import REQUESTS_ERRORS, Surface, counters
from vault_pool.runtime.hot_swap.vouching import SHORTEST_PAUSE

if TYPE_CHECKING:
    from typing_extensions import Self


class HotSwapPool(Surface[CT]):
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

    # How connections are lent, and whether those that are out too long are cancelled.
    _checkout: type[Checkout[Any]] = Checkout
    _cancels = False

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
        opening = options.pop("open", None)
        self._prepare(conninfo, connection_class, kwargs, overlap, options)
        self._begin(self._blueprint.build(1, cast("Budget", self._budget), open=opening))

    def _init_holder(self, retire_timeout: float) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._current: Generation[CT] | None = None
        self._closed = False
        self._pools: weakref.WeakSet[ConnectionPool[CT]] = weakref.WeakSet()
        self._past = Counter[str]()
        self._counted: list[Generation[CT]] = []
        self._moved = 0
        self._handed_back: weakref.WeakSet[ConnectionPool[CT]] = weakref.WeakSet()
        self._vacant = 0
        self._retire_timeout = positive("retire_timeout", retire_timeout)
        # What the ends of leases are measured by.
        self._now: Callable[[], float] = monotonic
        # It was open in the process that forked this one: it opens at the first use.
        self._inherited = False
        # And it was the application's: this process cannot build another one.
        self._orphaned = False
        forking.watch(self)

    def _prepare(
        self,
        conninfo: ConninfoParam,
        connection_class: type[CT],
        kwargs: KwargsParam | None,
        overlap: int | None,
        options: dict[str, Any],
        *,
        role: AssumedRole | None = None,
    ) -> None:
        """
        Keep what generations are built from.
        """
        if (reconnect_failed := options.get("reconnect_failed")) is not None:
            # The application knows one pool, whichever generation cannot connect.
            this = weakref.ref(self)
            options["reconnect_failed"] = lambda pool: reconnect_failed(this() or pool)
        min_size = options.setdefault("min_size", 4)
        max_size = min_size if options.get("max_size") is None else options["max_size"]
        if overlap is not None and overlap < 1:
            raise ConfigurationError(f"overlap must be at least 1, not {overlap!r}: a swap needs room for one login")
        self._blueprint = Blueprint(
            conninfo=conninfo, connection_class=connection_class, kwargs=kwargs, role=role, options=options
        )
        self._overlap = overlap
        self._budget = Budget(max_size, min_size if overlap is None else overlap)

    def _begin(self, generation: Generation[CT]) -> None:
        self._current = generation
        self._counted.append(generation)
        self._pools.add(generation.pool)
        self._name = generation.pool.name
        self._reaper = self._new_reaper()

    def _new_reaper(self) -> Reaper:
        reaper = Reaper(self._name, cancels=self._cancels)
        # Its thread knows the reaper, not the holder: a holder that was dropped is collected, and the thread ends.
        weakref.finalize(self, reaper.close, 0.0).atexit = False
        return reaper

    def __repr__(self) -> str:
        number = self._current.number if self._current else 0
        return (
            f"<{type(self).__module__}.{type(self).__name__} {self.name!r}"
            f" generation {number}, {len(self._reaper.retiring())} retiring, at 0x{id(self):x}>"
        )

    # --- Processes ---------------------------------------------------------------------------------------

    def start_over(self) -> None:
        """
        Have no generation, in a child of fork; called there by itself. What was open opens again at the first use.
        """
        forking.renew(self._changed)
        self._reaper = self._new_reaper()
        self._vacant = 0
        if self._current is not None and self._current.pool._opened:
            self._inherited, self._orphaned, self._current = True, self._current.foreign, None
            self._past, self._counted, self._moved = Counter(), [], 0

    def _open_inherited(self) -> None:
        """
        Open a generation of this process's own, where the pool was open in the process that forked it.
        """
        if not self._inherited:
            return
        if forking.greenlets():
            raise PoolError(
                f"the pool {self.name!r} was open when the process forked, but gevent's greenlets live on in a child: "
                "open it after the fork"
            )
        self._open_anew()

    def _open_anew(self) -> None:
        with self._lock:
            if self._closed or self._current is not None:
                return
            if self._orphaned:
                raise PoolError(
                    f"the pool {self.name!r} was made by the application, in the process that forked this one: "
                    "have the child make another one, and replace() it"
                )
            self._begin(self._blueprint.build(1, cast("Budget", self._budget), name=self._name, open=True))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} {self.name!r} cannot be pickled or copied, since it holds connections and threads: "
            "have each process make its own"
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
        if not isinstance(new_pool, ConnectionPool):
            raise TypeError(f"replace() takes a psycopg_pool.ConnectionPool, not {type(new_pool).__name__}")
        if any(generation.pool is new_pool for generation in self._reaper.retiring()):
            raise ValueError(f"the pool {new_pool.name!r} is retiring: hand in another one")
        current = self._current
        if current is not None and new_pool is current.pool:
            raise ValueError(f"the pool {new_pool.name!r} is already the current one")
        if self._closed:
            raise closed(self.name)
        opening = new_pool.closed
        if opening:
            new_pool.open(wait=True, timeout=timeout)
        # One that we built, and handed back before, still has its record.
        fresh = new_pool.generation if isinstance(new_pool, GenerationPool) else Generation(new_pool, 0)
        fresh.number = 0
        try:
            return self._replace(fresh, retire=retire).pool
        except PoolClosed:
            if opening:
                new_pool.close()
            raise

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
            self._counted.append(fresh)
            if fresh.pool in self._handed_back:
                # It has counted for us before, and for others meanwhile.
                self._handed_back.discard(fresh.pool)
                self._past.subtract(counters(fresh.pool.get_stats()))
            if not fresh.foreign:
                # What the application has set while it was opened.
                self._bring_up_to_date(fresh)
            if old is not None and not retire:
                self._counted.remove(old)
                self._past.update(counters(old.pool.get_stats()))
                self._handed_back.add(old.pool)
            self._changed.notify_all()
        fresh.notify()
        if old is None:
            return fresh
        if retire:
            self._retire(old)
        return old

    def _vacate(self, only: Generation[CT] | None = None, *, revoked: bool = False) -> bool:
        """
        Retire the current generation (or *only* that one, if it is current) without a successor: clients wait for one.

        *revoked*: its sessions are worth nothing, or must not be used any more. Return whether there was one.
        """
        with self._lock:
            old = self._current
            if old is None or only not in (None, old):
                return False
            self._current = None
            old.revoked = old.revoked or revoked
        self._retire(old)
        return True

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
        with self._lock:
            self._past.update(counters(generation.pool.pop_stats()))
            self._counted.remove(generation)

    # --- Checkout and return -----------------------------------------------------------------------------

    def connection(self, timeout: float | None = None) -> Checkout[CT]:
        """
        Return a context manager around a connection: `getconn`, commit or rollback, `putconn`.
        """
        return self._checkout(self, timeout)

    def getconn(self, timeout: float | None = None) -> CT:
        """
        Obtain a connection within *timeout* seconds (default: the pool's), also when the pool is replaced meanwhile.

        Raises `PoolTimeout`, `TooManyRequests` or `PoolClosed` as psycopg_pool does.
        """
        checkout: Checkout[CT] = self._checkout(self, timeout)
        return checkout.__enter__()

    def _getconn_elsewhere(
        self,
        generation: Generation[CT] | None,
        error: NotServed | None,
        timeout: float | None,
        began: float,
    ) -> tuple[CT, Generation[CT]]:
        """
        Go on after *generation* has not served, in the caller's one *timeout*, until one that is current has spoken.
        """
        whole = self.timeout if timeout is None else timeout
        deadline = began + whole
        seen = generation
        if generation is None:
            self._open_inherited()
        while True:
            current = self._next_generation(seen, deadline)
            moved = seen is not generation
            if isinstance(error, PoolTimeout) or monotonic() >= deadline:
                # The error names the whole time, not what was left of it for the last attempt.
                self._past[REQUESTS_ERRORS] += 1
                raise PoolTimeout(f"couldn't get a connection after {whole:.2f} sec") from self._trouble()
            if current is seen and error is not None:
                if not (moved and isinstance(error, TooManyRequests)):
                    self._past[REQUESTS_ERRORS] += 1
                    raise error from self._trouble()
                # Somebody has come into the queue before the limit was raised for this one.
                sleep(SHORTEST_PAUSE)
            assert current is not None
            self._moved += seen is not None
            seen = current
            try:
                return self._getconn_moved(seen, deadline - monotonic()), seen
            except NOT_SERVED as again:
                error = again

    def _next_generation(self, seen: Generation[CT] | None, deadline: float) -> Generation[CT] | None:
        """
        Return the current generation, waiting until *deadline* while there is none.
        """
        with self._lock:
            if self._current is None and seen is None and 0 < self.max_waiting <= self._vacant:
                self._past[REQUESTS_ERRORS] += 1
                raise TooManyRequests(f"the pool {self.name!r} has already {self._vacant} requests waiting")
            self._vacant += 1
            try:
                self._changed.wait_for(lambda: self._current or self.closed, max(0.0, deadline - monotonic()))
            finally:
                self._vacant -= 1
            if self._closed or (self._current is None and self.closed):
                self._past[REQUESTS_ERRORS] += 1
                raise closed(self.name) if self._closed else PoolClosed(f"the pool {self.name!r} is not open yet")
            return self._current or seen

    def _trouble(self) -> BaseException | None:
        """
        Return why checkouts may fail, as the cause of their errors.
        """
        return None

    def _getconn_moved(self, generation: Generation[CT], timeout: float) -> CT:
        """
        Check out for a client that another generation has sent on: the limit of waiting clients is not for it.
        """
        with self._lock:
            generation.count_guests(1)
        deadline = monotonic() + timeout
        try:
            conn = generation.getconn(timeout)
            if generation.doubt is not None or self._now() > generation.good_until:
                conn = generation.vouch(conn, deadline)
            return conn
        finally:
            with self._lock:
                generation.count_guests(-1)

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
        self._generation().pool.open()
        if wait:
            self.wait(timeout)

    def wait(self, timeout: float = 30.0) -> None:
        """
        Wait up to *timeout* seconds until the pool is full; close it and raise `PoolTimeout` if it is not.

        A pool that is replaced meanwhile is waited for no longer: its successor was full when it came.
        """
        generation = self._generation()
        try:
            generation.pool.wait(timeout)
        except PoolTimeout:
            if generation is not self._current:
                return
            self.close()
            raise
        if self._closed:
            raise closed(self.name)

    def close(self, timeout: float = 5.0) -> None:
        """
        Close the pool: clients that wait get `PoolClosed`, connections that are out are closed when they come back.

        Wait up to *timeout* seconds for each thread to end, as psycopg_pool does.
        """
        forking.settle()
        with self._lock:
            if self._current is not None and not self._current.pool._opened:
                return
            self._closed = True
            current = self._current
            self._changed.notify_all()
            if current is not None:
                current.begin_retiring()
        try:
            if current is not None:
                current.pool.close(timeout)
                current.reclaim()
        finally:
            self._reaper.close(timeout)

    @property
    def closed(self) -> bool:
        """
        Whether the pool is closed, or not open yet.
        """
        current = self._current
        return self._closed or (not self._inherited if current is None else current.pool.closed)


def positive(setting: str, value: float) -> float:
    """
    Return *value*; raise `ConfigurationError` where it is no positive number of seconds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(f"{setting} must be a positive number of seconds, not {value!r}")
    return float(value)


def closed(name: str) -> PoolClosed:
    """
    Return the error of a checkout from a holder that is closed.
    """
    return PoolClosed(f"the pool {name!r} is already closed")
