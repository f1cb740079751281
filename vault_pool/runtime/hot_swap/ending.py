"""
The end of sessions that are lent out, by another thread than the one that uses them.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.pq import ConnStatus

#: For how long a server is waited for that is asked to cancel a statement, in seconds.
CANCEL_TIMEOUT = 2.0


def cancel(conn: Any) -> None:
    """
    Have the server cancel what *conn* is doing, if anything: its borrower gets a `QueryCanceled` and can go on.

    It takes a connection of its own to the server, and up to `CANCEL_TIMEOUT` seconds. Raises nothing.
    """
    with suppress(Exception):
        conn.cancel_safe(timeout=CANCEL_TIMEOUT)


def cut_off(conn: Any) -> None:
    """
    End the session of *conn*: the server rolls it back, its borrower gets an `OperationalError` at the next use.

    A statement that runs must be cancelled before: the server notices the loss of a client only when it writes to it.
    The connection itself is its borrower's; to close it here would free its descriptor, for another to get, under the
    borrower's hands. So a duplicate is shut down. Raises nothing.
    """
    # psycopg's: it came back meanwhile, and was closed.
    with suppress(OSError, psycopg.Error):
        duplicate = os.dup(conn.pgconn.socket)
        with socket.socket(fileno=duplicate) as ours:
            # Only now: had it been closed between the two calls above, the duplicate could be somebody else's. It is
            # never opened again, so that a connection which is open here was open then.
            if conn.pgconn.status != ConnStatus.BAD:
                ours.shutdown(socket.SHUT_RDWR)
    conn._ended = True
