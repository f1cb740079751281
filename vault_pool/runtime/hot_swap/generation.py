"""
A pool bound to exactly one credential, and an exact count of its connections.
"""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Generic, cast

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ConnStatus
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT, ConninfoParam, KwargsParam

from vault_pool.core.lease import Credential
from vault_pool.errors import LoginFailed, PoolClosed, ProofFailed, fold
from vault_pool.runtime.hot_swap.budget import Budget
from vault_pool.runtime.hot_swap.tracking import Loan, dismiss, take_back, track, tracked

_BAD = int(ConnStatus.BAD)
_putconn = ConnectionPool.putconn
_OWN_FIELDS = frozenset({"conninfo", "kwargs"})
_DEFAULTS = {name: known.default for name, known in inspect.signature(ConnectionPool).parameters.items()}
#: ``connect_timeout`` of connections with a credential of ours, in seconds, unless the application has set one:
#: psycopg's own is over two minutes.
CONNECT_TIMEOUT = 10
#: As ``max_waiting`` of a pool: whoever finds no connection is turned away instead of queued.
NOBODY_WAITS = -1


class Generation(Generic[CT]):
    """
    A pool, the number by which signals and logs know it, and the connections that it has open.

    Thread-safe: the registry is a dict of weak references, whose single operations are atomic; *retired*,
    *opening*, *connecting* and *paced_until* are written under the budget's lock.
    """

    def __init__(self, pool: ConnectionPool[CT], number: int, *, budget: Budget | None = None) -> None:
        self.pool = pool
        self.number = number
        self.retired = False
        self.opening = False
        self.connecting = 0
        self.paced_until = 0.0
        self.credential: Credential | None = None
        self.last_error: Exception | None = None
        self.on_finished: Callable[[Generation[CT]], None] | None = None
        self.finished = threading.Event()
        self.leftovers: list[CT] = []
        self._budget = budget
        # The application built the pool: its connections become known when the holder lends them.
        self.foreign = budget is None
        # Checkout and return without the records of `GenerationPool`, for the holder, which makes them itself.
        self.getconn: Callable[[float | None], CT] = pool.getconn
        self.putconn: Callable[[CT], None] = pool.putconn
        if isinstance(pool, GenerationPool):
            self.getconn = super(GenerationPool, pool).getconn
            self.putconn = pool.put_back
        # At most one: the proven connection, until the pool adopts it. Popping is one atomic step.
        self._spares: list[CT] = []
        # Returned, and not yet seen by the worker that runs the application's ``reset``.
        self.resetting: dict[int, CT] = {}
        self._registry: dict[int, weakref.ref[CT]] = {}
        if budget is not None:
            budget.add(self)

    def register(self, conn: CT) -> None:
        """
        Count *conn* among the connections of this generation, once.
        """
        key = id(conn)
        if key not in self._registry:
            registry = self._registry
            registry[key] = weakref.ref(conn, lambda _: registry.pop(key, None))

    def connections(self) -> list[CT]:
        """
        Return the connections that are open.
        """
        # list() of a dict is one atomic step; iterating it while workers register is not.
        known = (ref() for ref in list(self._registry.values()))
        return [conn for conn in known if conn is not None and not conn.closed]

    def live(self) -> int:
        """
        Return how many connections of this generation are open.
        """
        return len(self.connections())

    def loans(self) -> list[Loan]:
        """
        Return since when and with which threads connections of this generation are out, the longest first.
        """
        return sorted(loan for conn in self.connections() if (loan := getattr(conn, "_loan", None)) is not None)

    def notify(self) -> None:
        """
        Tell those who wait for room, or for the end of this generation, that a connection was closed.
        """
        if self._budget is not None:
            self._budget.notify()

    # --- Opening -----------------------------------------------------------------------------------------

    def connect(self, make: Callable[[], CT]) -> CT:
        """
        Return the proven connection where there still is one, else what *make* connects when the budget has room.
        """
        try:
            return self._spares.pop()
        except IndexError:
            return self._connect(make)

    def _connect(self, make: Callable[[], CT]) -> CT:
        budget = self._budget
        assert budget is not None
        budget.enter(self)
        began = monotonic()
        try:
            conn = make()
            self.last_error = None
            track(conn, self)
            self.register(conn)
        except LoginFailed as error:
            self.last_error = error
            raise
        finally:
            budget.leave(self, monotonic() - began)
        return conn

    def prove(self, make: Callable[[], CT], expected_user: str) -> None:
        """
        Open the first connection and have it show that it is *expected_user*; the pool will adopt it.

        Raises `LoginFailed` or `ProofFailed`. Only the thread that builds the generation calls this.
        """
        conn = self._connect(make)
        problem: str | None
        try:
            with psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
                row = cursor.execute("SELECT current_user", prepare=False).fetchone()
            conn.rollback()
            problem = None if row == (expected_user,) else f"the session belongs to {row!r}, not to {expected_user!r}"
        except psycopg.Error as error:
            problem = fold(error)
        if problem is not None:
            dismiss(conn)
            raise ProofFailed(f"the new credential did not prove itself: {problem}")
        self._spares.append(conn)

    def open(self, timeout: float) -> None:
        """
        Open the pool and wait up to *timeout* seconds for ``min_size`` connections, at least for one.

        Raises `ProofFailed` when there is none in time; then the pool is closed.
        """
        self.pool.open()
        deadline = monotonic() + timeout
        budget = self._budget
        assert budget is not None
        while (available := self.pool.get_stats()["pool_available"]) < self.pool.min_size:
            with budget.changed:
                left = deadline - monotonic()
                if left <= 0:
                    break
                budget.changed.wait(min(left, 0.005))
        if available == 0 < self.pool.min_size:
            self.discard()
            reason = fold(self.last_error) if self.last_error else "see the log of psycopg.pool"
            raise ProofFailed(f"no connection of the new generation was ready after {timeout:g} s: {reason}")

    def discard(self) -> None:
        """
        Close a generation that never served. Not to be called from a worker of its pool.
        """
        self.begin_retiring()
        self.pool.close(timeout=1.0)
        for conn in self.connections():
            dismiss(conn)
        self.finish()

    # --- Retiring ----------------------------------------------------------------------------------------

    def begin_retiring(self) -> None:
        """
        Let nobody join the queue any more, and end the waiting of workers for room.

        ``max_waiting`` is read under the pool's own lock by whoever would queue, so a client that has passed the
        check of ``closed`` is either turned away or in the queue before ``close()`` looks at it: none is lost.
        """
        self.retired = True
        self.opening = False
        self.pool.max_waiting = NOBODY_WAITS
        self.notify()

    def reclaim(self) -> None:
        """
        Close what a closed pool forgot: a proven connection nobody took, a return that its worker never saw.
        """
        for forgotten in (self._spares, self.resetting):
            while forgotten:
                conn = self._spares.pop() if forgotten is self._spares else self.resetting.popitem()[1]
                dismiss(conn)

    def finish(self) -> None:
        """
        Note that the last connection is closed.
        """
        if self._budget is not None:
            self._budget.remove(self)
        self.finished.set()
        if self.on_finished is not None:
            self.on_finished(self)


class GenerationPool(ConnectionPool[CT]):
    """
    psycopg_pool's pool, for one generation: it records loans and lets the reaper pace the closing.
    """

    generation: Generation[CT]
    #: The thread whose closings are put off, while it closes the pool.
    deferring: int | None = None

    def getconn(self, timeout: float | None = None) -> CT:
        """
        Obtain a connection, as `psycopg_pool.ConnectionPool.getconn` does.
        """
        conn = super().getconn(timeout)
        conn._loan = (monotonic(), threading.get_ident())  # type: ignore[attr-defined]  # a record of ours
        return conn

    def putconn(self, conn: CT) -> None:
        """
        Return a connection, once.

        psycopg_pool would take a broken connection twice, and exceed ``max_size`` by the second.
        """
        self._check_pool_putconn(conn)
        if not take_back(conn):
            raise ValueError(f"can't return connection to pool {self.name!r}, it was returned before: {conn}")
        self.put_back(conn)

    def put_back(self, conn: CT) -> None:
        """
        Return a connection whose loan has just been ended by the caller.
        """
        if conn.pgconn.status == _BAD:
            _putconn(self, conn)
            # Nobody else has it: it leaves the pool's state for good, and frees its descriptor now.
            dismiss(conn)
            return
        if self._reset:
            self.generation.resetting[id(conn)] = conn
        _putconn(self, conn)

    def _close_connection(self, conn: CT) -> None:
        if self.deferring is not None and self.deferring == threading.get_ident():
            conn._pool = None
            self.generation.leftovers.append(conn)
        else:
            dismiss(conn)


class Connector(Generic[CT]):
    """
    What a generation's pool takes for its connection class: ``connect`` is the gate of the budget.

    The credential is added here, so that it is in no pool's ``kwargs``.
    """

    def __init__(self, connection_class: type[CT], credential: Credential | None) -> None:
        self.connection_class = tracked(connection_class)
        self.credential = credential
        self.generation: Generation[CT] | None = None

    def connect(self, conninfo: str = "", **kwargs: Any) -> CT:
        """
        Return a connection; raise `LoginFailed` where a credential of ours was refused.
        """
        assert self.generation is not None
        return self.generation.connect(lambda: self.make(conninfo, **kwargs))

    def make(self, conninfo: str, **kwargs: Any) -> CT:
        """
        Connect, outside of the budget.

        psycopg's error holds the connection object, and its frames the arguments, both with the password: ours is
        raised after that error is gone, with nothing but its text.
        """
        credential = self.credential
        connect: Callable[..., CT] = self.connection_class.connect
        if credential is None:
            return connect(conninfo, **kwargs)
        if "connect_timeout" not in kwargs and not _bounded(conninfo):
            kwargs["connect_timeout"] = CONNECT_TIMEOUT
        try:
            return connect(conninfo, **{**kwargs, "user": credential.user, "password": credential.password})
        except Exception as error:  # noqa: BLE001 - a connection class of the application may raise anything
            problem = fold(f"{type(error).__name__}: {error}".replace(credential.password, "***"))
        raise LoginFailed(f"PostgreSQL refused the login of {credential.user!r}, or could not be reached: {problem}")


@dataclass(frozen=True, kw_only=True)
class Blueprint(Generic[CT]):
    """
    What every generation of a holder is built from: psycopg_pool's arguments.
    """

    conninfo: ConninfoParam = ""
    connection_class: type[Any] = Connection
    kwargs: KwargsParam | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def setting(self, name: str) -> Any:
        """
        Return what a generation would have for its setting *name*.
        """
        if name in _OWN_FIELDS:
            return getattr(self, name)
        value = self.options.get(name, _DEFAULTS[name])
        return self.setting("min_size") if name == "max_size" and value is None else value

    def changed(self, name: str, value: Any) -> Blueprint[CT]:
        """
        Return this blueprint with another *value* for the setting *name*.
        """
        if name in _OWN_FIELDS:
            return replace(self, **{name: value})
        return replace(self, options={**self.options, name: value})

    def build(
        self, number: int, budget: Budget, *, credential: Credential | None = None, name: str | None = None
    ) -> Generation[CT]:
        """
        Return a generation whose pool is not open yet.
        """
        connector = Connector(self.connection_class, credential)
        options = {**self.options, "name": name or self.options.get("name")}
        reset = self.options.get("reset")
        pool: GenerationPool[CT] = GenerationPool(
            self.conninfo, kwargs=self.kwargs, connection_class=cast("type[CT]", connector), **options
        )
        generation = Generation(pool, number, budget=budget)
        generation.credential = credential
        pool.generation = connector.generation = generation
        if reset is not None:
            pool._reset = lambda conn: _reset(generation, conn, reset)
        return generation

    def maker(self, credential: Credential) -> Callable[[], CT]:
        """
        Return a function that connects as *credential*, for the proof.
        """
        connector: Connector[CT] = Connector(self.connection_class, credential)

        def make() -> CT:
            conninfo = self.conninfo() if callable(self.conninfo) else self.conninfo
            kwargs = self.kwargs() if callable(self.kwargs) else self.kwargs
            return connector.make(conninfo, **(kwargs or {}))

        return make


def _bounded(conninfo: str) -> bool:
    return "connect_timeout" in conninfo_to_dict(conninfo) or "PGCONNECT_TIMEOUT" in os.environ


def _reset(generation: Generation[CT], conn: CT, reset: Callable[[CT], None]) -> None:
    """
    Run the application's *reset*, unless the reaper took *conn* for a return that nobody would see.
    """
    if generation.resetting.pop(id(conn), None) is None and generation.retired:
        raise PoolClosed("the pool was retired while the connection came back")
    reset(conn)


def closed(name: str) -> PoolClosed:
    """
    Return the error of a checkout from a holder that is closed.
    """
    return PoolClosed(f"the pool {name!r} is already closed")
