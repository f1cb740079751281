"""
Connections that know their generation, tell it of trouble, and come back exactly once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast, get_origin

import psycopg
from psycopg import Connection
from psycopg.abc import PQGen, PQGenConn

from vault_pool.runtime import forking
from vault_pool.runtime.hot_swap.doubt import is_sign

if TYPE_CHECKING:
    from vault_pool.runtime.hot_swap.generation import Generation

logger = logging.getLogger("vault_pool.pool")

#: Since when a connection is out, and with which thread; the record itself stands for that one checkout.
Loan = tuple[float, int]


class Tracked(Connection[Any]):
    """
    What every connection of a generation that we build can do besides its own class.

    A connection is out while ``_loan`` is set. Removing it is one atomic step, so that of all the ways to give a
    connection back (``close()``, ``putconn()``, the end of ``connection()``) the first one counts, in any thread.
    """

    _generation: Generation[Any]
    _loan: Loan
    _dismissed = False
    #: A statement failed in a way in which those of a role that is gone fail: the session is asked before it is lent.
    _suspect = False
    #: Whether leaving its ``with`` block does what psycopg does, and nothing else.
    _plain_exit = False
    #: Somebody else's thread cut it off from the server; its borrower may not know yet.
    _ended = False
    #: The calls by which it was borrowed last, in debug mode.
    _stack = ""

    def wait(self, gen: PQGen[Any], *args: Any, **kwargs: Any) -> Any:
        """
        Do what psycopg does to run a statement, a commit, a fetch; tell the generation of errors that mean something.
        """
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.Error as error:
            # Without a generation it is not connected yet as far as the pool goes: a refused login is heard of.
            generation = getattr(self, "_generation", None)
            if generation is not None and is_sign(error.sqlstate):
                self._suspect = True
                generation.suspect()
            elif generation is not None and self.closed:
                generation.sweep()
            raise

    @classmethod
    def _connect_gen(cls, *args: Any, **kwargs: Any) -> PQGenConn[Any]:
        # A child that is forked meanwhile has to know the sockets of which there is no connection yet.
        steps = super()._connect_gen(*args, **kwargs)
        ready: Any = None
        while True:
            with forking.whole:
                try:
                    step = steps.send(ready)
                except StopIteration as done:
                    return done.value
                forking.connecting(step[0])
            ready = yield step

    def close(self) -> None:
        """
        Close the connection; where the pool has ``close_returns``, give it back instead, once.

        psycopg's own method forgets a connection that the server broke meanwhile, and its slot with it, and really
        closes a connection that was given back before: then it lies in the pool, or is with its next borrower.
        """
        generation = getattr(self, "_generation", None)
        if generation is None:
            # It is closed before it became a pool's.
            super().close()
            return
        home = generation.pool
        if home.close_returns and not self._dismissed:
            if hasattr(self, "_loan"):
                cast("Any", self._pool).putconn(self)
            return
        super().close()
        generation.notify()


def exits_plainly(connection_class: type[Any]) -> bool:
    """
    Tell whether leaving the ``with`` block of such a connection does what psycopg does, and nothing else.
    """
    return connection_class.__exit__ is Connection.__exit__ and connection_class.commit is Connection.commit


_classes: dict[type[Any], type[Any]] = {}


def tracked(connection_class: Any) -> Any:
    """
    Return a subclass of *connection_class* (a class, or a generic alias of one) whose instances are `Tracked`.
    """
    base = get_origin(connection_class) or connection_class
    if base not in _classes:
        namespace: dict[str, Any] = {"__module__": base.__module__, "__qualname__": base.__qualname__}
        namespace["_plain_exit"] = exits_plainly(base)
        _classes[base] = type(base.__name__, (Tracked, base), namespace)
    return _classes[base]


def track(conn: Any, generation: Generation[Any]) -> None:
    """
    Make *conn*, which has just been connected, a connection of *generation*.

    One that came from elsewhere than the class that was asked (tools that trace connects do that) changes its class;
    where that is not possible, for a proxy, it stays a connection like any other.
    """
    if not isinstance(conn, Tracked):
        try:
            conn.__class__ = tracked(type(conn))
        except TypeError:
            return
    conn._generation = generation


def take_back(conn: Any) -> bool:
    """
    End the loan of *conn*; return False where it had ended before.
    """
    # Not by way of ``__dict__``: CPython would give the instance a dict of its own, and slow all its attributes down.
    try:
        del conn._loan
    except AttributeError:
        return False
    return True


def dismiss(conn: Any) -> None:
    """
    Close *conn* for good: its pool has no use for it any more. Raises nothing.
    """
    conn._dismissed = True
    conn._pool = None
    try:
        conn.close()
    except Exception:
        # The class is the application's. The reaper's thread must not end by it, nor a lost role go untold.
        logger.exception("vault_pool: a connection could not be closed")
    # psycopg's close() leaves the socket of a connection that the server broke to the garbage collector.
    conn.pgconn.finish()
