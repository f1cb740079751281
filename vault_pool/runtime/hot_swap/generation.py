"""
A pool bound to exactly one credential, and an exact count of its connections.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from time import monotonic
from typing import Any

import psycopg
from psycopg.pq import ConnStatus
from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT
from psycopg_pool.pool import AddConnection

from vault_pool.core.lease import Credential
from vault_pool.errors import ConfigurationError, LoginFailed, ProofFailed, fold
from vault_pool.runtime import forking
from vault_pool.runtime.hot_swap.assumed import AssumedRole
from vault_pool.runtime.hot_swap.budget import Budget, Retired
from vault_pool.runtime.hot_swap.doubt import Sign
from vault_pool.runtime.hot_swap.inheritance import disown, disown_pool
from vault_pool.runtime.hot_swap.proof import not_proven
from vault_pool.runtime.hot_swap.reconnection import hasten, sweep
from vault_pool.runtime.hot_swap.tracking import dismiss, exits_plainly, take_back, track
from vault_pool.runtime.hot_swap.vouching import Vouching

_BAD = int(ConnStatus.BAD)
_stock_putconn = ConnectionPool.putconn
_CONNECTIONS_MS = "connections_ms"
MAX_WAITING = "max_waiting"
#: As ``max_waiting`` of a pool: whoever finds no connection is turned away instead of queued.
NOBODY_WAITS = -1


class Generation(Vouching[CT]):
    """
    A pool, the number by which signals and logs know it, and the connections that it has open.

    Thread-safe: the registry is a dict of weak references, whose single operations are atomic; *retired*,
    *opening*, *connecting* and *paced_until* are written under the budget's lock.
    """

    def __init__(self, pool: ConnectionPool[CT], number: int, *, budget: Budget | None = None) -> None:
        super().__init__()
        self.pool = pool
        self.number = number
        self.retired = False
        self.opening = False
        self.connecting = 0
        self.paced_until = 0.0
        self.credential: Credential | None = None
        self.role: AssumedRole | None = None
        self.last_error: Exception | None = None
        self.on_finished: Callable[[Generation[CT]], None] | None = None
        # Its role is gone, or its lease is over for good: what is still out at the retire deadline is ended.
        self.revoked = False
        self.overdue = False
        self.ending = False
        # There will be no fresh sessions: a login was refused since the end of its lease.
        self.barred = False
        # Why the application's ``configure`` failed last.
        self.configure_error: Exception | None = None
        # Logins that were refused in a row.
        self.refusals = 0
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
        # By thread: the proven connection, or room in the budget (None), for what it is about to connect.
        self._reserved: dict[int, CT | None] = {}
        # Returned, and not yet seen by the worker that runs the application's ``reset``.
        self.resetting: dict[int, CT] = {}
        self._registry: dict[int, weakref.ref[CT]] = {}
        # Clients that another generation has sent on, and what the application set: the pool's differs by either.
        self._guests = 0
        self._max_waiting = pool.max_waiting
        if budget is not None:
            budget.add(self)
        forking.watch(self)

    def start_over(self) -> None:
        """
        Leave the sessions to the parent, in a child of fork: also those that are out, or that nobody has seen yet.
        """
        for conn in [*(ref() for ref in self._registry.values()), *self.leftovers, *self._spares]:
            if conn is not None:
                disown(conn)
        disown_pool(self.pool)
        self.retired = self.pool._opened
        self.connecting = 0
        self._reserved.clear()
        self.on_finished = None

    # --- Settings: under the holder's lock, as is `begin_retiring` --------------------------------------

    def setting(self, name: str) -> Any:
        """
        Return the setting *name* of the pool, as the application made it.
        """
        value = getattr(self.pool, name)
        if name != MAX_WAITING:
            return value
        if self.retired:
            return self._max_waiting
        return value - self._guests if value > 0 else value

    def change(self, name: str, value: Any) -> None:
        """
        Make *value* the setting *name* of the pool.
        """
        if name == MAX_WAITING:
            self._max_waiting = value
            if self.retired:
                return
            value += self._guests if value > 0 else 0
        setattr(self.pool, name, value)

    def count_guests(self, more: int) -> None:
        """
        Count *more* clients, or fewer, that another generation has sent on: ``max_waiting`` is not for them.

        The limit is raised by their number while they are at it, so it holds for all others.
        """
        self._guests += more
        if self.pool.max_waiting > 0:
            self.pool.max_waiting += more

    # --- Connections -------------------------------------------------------------------------------------

    def register(self, conn: CT) -> None:
        """
        Count *conn* among the connections of this generation, once.
        """
        key = id(conn)
        if key not in self._registry:
            registry = self._registry
            registry[key] = weakref.ref(conn, lambda _: registry.pop(key, None))
            if self.foreign:
                conn._plain_exit = exits_plainly(type(conn))  # type: ignore[attr-defined]  # ours

    def connections(self) -> list[CT]:
        """
        Return the connections that are open.
        """
        # list() of a dict is one atomic step; iterating it while workers register is not.
        known = (ref() for ref in list(self._registry.values()))
        return [conn for conn in known if not (conn is None or conn.closed or getattr(conn, "_ended", False))]

    def live(self) -> int:
        """
        Return how many connections of this generation are open.
        """
        return len(self.connections())

    def borrowers(self) -> list[tuple[float, int, str]]:
        """
        Return since when, with which threads, and (in debug mode) by which calls connections are out, oldest first.
        """
        lent = [(conn, loan) for conn in self.connections() if (loan := getattr(conn, "_loan", None)) is not None]
        return sorted((*loan, getattr(conn, "_stack", "")) for conn, loan in lent)

    def notify(self) -> None:
        """
        Tell those who wait for room, or for the end of this generation, that a connection was closed.
        """
        if self._budget is not None:
            self._budget.notify()

    # --- Opening -----------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """
        Close the idle connections that the server has ended: one of them was found broken.
        """
        for conn in sweep(self.pool):
            dismiss(conn)

    def reserve(self) -> float:
        """
        Take the proven connection, or room in the budget, for what this thread connects next; return 0.0.

        Where there is neither, return after how many seconds to ask again. Raises `Retired`. Every reservation is
        followed by one `release`.
        """
        assert self._budget is not None
        try:
            self._reserved[get_ident()] = self._spares.pop()
        except IndexError:
            if pause := self._budget.ask(self):
                return pause
            self._reserved[get_ident()] = None
        return 0.0

    def release(self) -> None:
        """
        Give up what this thread has reserved, unless it has connected.
        """
        if get_ident() not in self._reserved:
            return
        spare = self._reserved.pop(get_ident())
        if spare is not None:
            self._spares.append(spare)
        elif self._budget is not None:
            self._budget.leave(self, 0.0)

    def connect(self, make: Callable[[], CT]) -> CT:
        """
        Return the proven connection if this thread has reserved it, else what *make* connects in the room it reserved.
        """
        if get_ident() not in self._reserved:
            # Somebody calls the pool's ``_connect``.
            return self._connect(make, math.inf)
        spare = self._reserved.pop(get_ident())
        return self._login(make) if spare is None else spare

    def _connect(self, make: Callable[[], CT], room_timeout: float) -> CT:
        assert self._budget is not None
        self._budget.enter(self, room_timeout)
        return self._login(make)

    def _login(self, make: Callable[[], CT]) -> CT:
        """
        Return what *make* connects, in room that has been taken.
        """
        budget = self._budget
        assert budget is not None
        began = monotonic()
        try:
            conn = make()
            self.last_error = None
            self.refusals = 0
            track(conn, self)
            self.register(conn)
        except LoginFailed as error:
            self.last_error = error
            if error.refused:
                self._refused()
            raise
        finally:
            forking.connected()
            budget.leave(self, monotonic() - began)
        return conn

    def _refused(self) -> None:
        """
        Take note of a refused login: a sign that the role is gone, and after the end of the lease no surprise.
        """
        self.refusals += 1
        self.barred = self.lapsed
        self.suspect()
        if self.witness is not None and not self.retired:
            self.witness.suspect(self, Sign.REFUSAL if self.refusals == 1 else Sign.REFUSALS)

    def prove(self, make: Callable[[], CT], expected_user: str, room_timeout: float = math.inf) -> None:
        """
        Open the first connection and have it show that it is *expected_user*, and acts as the assumed role, if any.

        The pool will adopt it. Old generations may use up the budget: room is waited for *room_timeout* seconds, since
        as long as it is waited for, the lease in force is not renewed. Raises `LoginFailed`, `ProofFailed`, or
        `ConfigurationError` where the role may not be assumed. Only the thread that builds the generation calls this.
        """
        began = monotonic()
        conn = self._connect(make, room_timeout)
        self.pool._stats[_CONNECTIONS_MS] += int(1000.0 * (monotonic() - began))
        try:
            problem = not_proven(conn, expected_user, self.role)
        except psycopg.Error as error:
            problem = fold(error)
        except BaseException:
            dismiss(conn)
            raise
        if problem is not None:
            dismiss(conn)
            raise ProofFailed(f"the new credential did not prove itself: {problem}")
        self._spares.append(conn)

    def not_configured(self, error: Exception) -> None:
        """
        Keep why the application's ``configure`` failed.
        """
        text = f"the configure callback failed: {type(error).__name__}: {error}"
        if self.credential is not None:
            text = text.replace(self.credential.password, "***")
        # What the database did to it may pass; anything else fails next time as well.
        passing = isinstance(error, psycopg.OperationalError)
        self.last_error = ProofFailed(fold(text)) if passing else ConfigurationError(fold(text))
        self.configure_error = self.last_error
        self.notify()

    def open(self, timeout: float, enough: int | None = None) -> None:
        """
        Open the pool and wait up to *timeout* seconds for *enough* connections (``min_size``), at least for one.

        Raises `ProofFailed` when there is none in time; then the pool is closed.
        """
        pool = self.pool
        pool.open()
        if pool.min_size == 0:
            # It would ask for none, and the proven one would lie beside it, where nothing is looked after.
            with pool._lock:
                pool._nconns += 1
            pool.run_task(AddConnection(pool))
        available = self.wait(max(1, pool.min_size if enough is None else min(enough, pool.min_size)), timeout)
        if available == 0:
            self.discard()
            if self.configure_error is not None:
                raise self.configure_error
            reason = fold(self.last_error) if self.last_error else "see the log of psycopg.pool"
            raise ProofFailed(f"no connection of the new generation was ready after {timeout:g} s: {reason}")

    def wait(self, enough: int, timeout: float) -> int:
        """
        Wait up to *timeout* seconds for *enough* connections, and return how many there are, lent ones included.

        Not beyond the time when it retires, or shows that the application's ``configure`` lets none through.
        """
        deadline = monotonic() + timeout
        budget = self._budget
        assert budget is not None
        while (ready := self.pool.get_stats()["pool_available"] + len(self.borrowers())) < enough:
            with budget.changed:
                left = deadline - monotonic()
                if left <= 0 or self.retired or (ready == 0 and self.configure_error is not None):
                    break
                budget.changed.wait(min(left, 0.005))
        return ready

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
        if not self.retired:
            self._max_waiting = self.setting(MAX_WAITING)
        self.retired = True
        self.opening = False
        self.pool.max_waiting = NOBODY_WAITS
        if (full := self.pool._pool_full_event) is not None:
            # It will not be: who waits for that looks at the holder again.
            full.set()
        self.notify()

    def reclaim(self) -> None:
        """
        Close what a closed pool forgot: a proven connection nobody took, a return that its worker never saw.
        """
        # Workers that outlived the pool take their own out meanwhile.
        with suppress(IndexError):
            while True:
                dismiss(self._spares.pop())
        with suppress(KeyError):
            while True:
                dismiss(self.resetting.popitem()[1])

    def finish(self) -> None:
        """
        Note that the last connection is closed.
        """
        if self._budget is not None:
            self._budget.remove(self)
        # Let go of it: a generation and its pool know each other, and would keep the holder until they are collected.
        on_finished, self.on_finished = self.on_finished, None
        if on_finished is not None:
            on_finished(self)


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
        conn._loan = (monotonic(), get_ident())  # type: ignore[attr-defined]  # a record of ours
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
        try:
            if getattr(conn, "_suspect", False) and not self.generation.look_at(conn):
                return
        except BaseException:
            # Whoever gives it back is interrupted: its place is not lost.
            _stock_putconn(self, conn)
            raise
        if conn.pgconn.status == _BAD:
            _stock_putconn(self, conn)
            # Nobody else has it: it leaves the pool's state for good, and frees its descriptor now.
            dismiss(conn)
            return
        _stock_putconn(self, conn)

    def _putconn(self, conn: CT, from_getconn: bool) -> None:
        # Not earlier: what is noted here the reaper may close at any moment, and psycopg_pool would not know it again.
        if self._reset:
            self.generation.resetting[id(conn)] = conn
        super()._putconn(conn, from_getconn)

    def _return_connection(self, conn: CT, from_getconn: bool) -> None:
        if self._reset and self.generation.resetting.pop(id(conn), None) is None:
            # The pool is closed, and the reaper took it for a return that nobody would see.
            return
        super()._return_connection(conn, from_getconn)

    def _shrink_pool(self) -> None:
        if not self.generation.lapsed:
            super()._shrink_pool()

    def _add_connection(self, attempt: Any, growing: bool = False) -> None:
        if attempt is not None:
            hasten(attempt)
        # A retired generation needs no more connections, and nobody needs to hear of it.
        with suppress(Retired):
            if pause := self.generation.reserve():
                # No worker waits for room: where there is a ``reset``, it is a worker that gives connections back.
                self.schedule_task(AddConnection(self, attempt, growing), pause)
                return
            try:
                super()._add_connection(attempt, growing)
            finally:
                self.generation.release()

    def _close_connection(self, conn: CT) -> None:
        if self.deferring is not None and self.deferring == get_ident():
            conn._pool = None
            self.generation.leftovers.append(conn)
        else:
            dismiss(conn)
