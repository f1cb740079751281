"""
One use of a connection.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Generic

from psycopg.pq import TransactionStatus
from psycopg_pool.abc import CT

from vault_pool.errors import PoolClosed, PoolTimeout, TooManyRequests
from vault_pool.runtime.forking import here, settle
from vault_pool.runtime.hot_swap.tracking import take_back

if TYPE_CHECKING:
    from vault_pool.runtime.hot_swap.holder import HotSwapPool

#: How a pool says that it does not serve.
NOT_SERVED = (PoolClosed, PoolTimeout, TooManyRequests)
NotServed = PoolClosed | PoolTimeout | TooManyRequests
_USAGE_MS = "usage_ms"
_IDLE = int(TransactionStatus.IDLE)


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
        if not here():
            settle()
        # Without the lock, which guards the writing: to read one reference is atomic, and what was read may be retired
        # a moment later either way.
        generation = holder._current
        if generation is None:
            conn, generation = holder._getconn_elsewhere(None, None, self._timeout, began)
        else:
            try:
                conn = generation.getconn(self._timeout)
                # Asked now, with the connection in hand: what comes to light from here on was in flight.
                if generation.doubt is not None or holder._now() > generation.good_until:
                    whole = holder.timeout if self._timeout is None else self._timeout
                    conn = generation.vouch(conn, began + whole)
            except NOT_SERVED as error:
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
            # Most of a return would go into a commit that has nothing to commit. Within a pipeline, IDLE does not mean
            # that nothing is on its way.
            if (
                exc_type is not None
                or conn.pgconn.transaction_status != _IDLE
                or not getattr(conn, "_plain_exit", False)
                or conn._pipeline is not None
            ):
                conn.__exit__(exc_type, exc, tb)
            elif conn._tpc is not None:
                # It left a prepared transaction, which any session may finish by its name: the next borrower is free.
                conn._tpc = None
        finally:
            if take_back(conn):
                generation.putconn(conn)
            pool._stats[_USAGE_MS] += int(1000.0 * (monotonic() - loan[0]))


class DebugCheckout(Checkout[CT]):
    """
    A checkout that keeps by which calls it was made.
    """

    __slots__ = ()

    def __enter__(self) -> CT:
        conn = super().__enter__()
        with suppress(AttributeError):
            conn._stack = "".join(traceback.format_stack(sys._getframe(1)))  # type: ignore[attr-defined]  # ours
        return conn
