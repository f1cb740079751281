"""
When PostgreSQL ends sessions: a restart, a failover, ``pg_terminate_backend``.
"""

from __future__ import annotations

import random
from typing import Any

import psycopg
from psycopg.pq import ConnStatus
from psycopg_pool import ConnectionPool
from psycopg_pool.pool import AddConnection

#: The longest pause between two attempts to replace a lost connection, in seconds, give or take a fifth. psycopg_pool
#: doubles its pauses without end: after an outage of two minutes a pool would be down for two minutes more.
LONGEST_PAUSE = 4.0


def sweep(pool: ConnectionPool[Any]) -> list[Any]:
    """
    Take the idle connections out of *pool* that the server has ended, have them replaced, and return them.

    For the moment at which one is found broken: a server that goes ends all its sessions, and whoever was lent another
    of them would fail for nothing. It looks at each socket, without a round trip. Thread-safe.
    """
    with pool._lock:
        dead = [conn for conn in pool._pool if _has_ended(conn.pgconn)]
        for conn in dead:
            pool._pool.remove(conn)
    for _ in dead:
        pool.run_task(AddConnection(pool))
    return dead


def _has_ended(pgconn: Any) -> bool:
    try:
        # The first one may find the server's parting words, the second one the end.
        pgconn.consume_input()
        pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return bool(pgconn.status == ConnStatus.BAD)


def hasten(attempt: Any) -> None:
    """
    Shorten the pause after *attempt*, psycopg_pool's record of the tries to replace one connection, if it fails too.
    """
    # It will be doubled.
    attempt.delay = min(attempt.delay, LONGEST_PAUSE / 2 * random.uniform(0.8, 1.2))  # noqa: S311 - it spreads, no more
