"""
Connections and pools of the parent process, in a child of ``fork()``.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.errors import FinishedPGconn
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from vault_pool.errors import PoolError
from vault_pool.runtime import forking


def disown(conn: Any) -> None:
    """
    Make *conn* a closed connection in this process, without a word to the server: the session is the parent's.

    Neither is libpq's connection finished, in which another thread of the parent may have been at work: it keeps a
    dead socket.
    """
    pgconn = conn.pgconn
    in_transaction = pgconn.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)
    with suppress(psycopg.Error, OSError):
        forking.cut_off(pgconn.socket)
    conn.pgconn = FinishedPGconn()
    conn.lock = threading.Lock()
    if in_transaction:
        # At the end of `with` psycopg says nothing where the connection is closed; but who leaves it here believes to
        # commit. `Checkout` asks the instance.
        conn.__exit__ = _leave


def _leave(exc_type: type[BaseException] | None, *_: object) -> None:
    if exc_type is None:
        raise PoolError(
            "this process was forked inside of a transaction, which belongs to its parent: nothing was committed here"
        )


def disown_pool(pool: ConnectionPool[Any]) -> None:
    """
    Make *pool* a closed one in this process: its threads are gone, and one of them may have held its lock.
    """
    pool._lock = threading.RLock()
    pool._closed = True
    pool._workers = []
    pool._sched_runner = None
    pool._waiting.clear()
    while pool._pool:
        disown(pool._pool.popleft())
