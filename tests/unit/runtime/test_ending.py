"""
Sessions that are lent out and have to end.
"""

from __future__ import annotations

import socket
from types import SimpleNamespace

from psycopg.pq import ConnStatus, PGconn
from psycopg_pool import ConnectionPool

from vault_pool.runtime.hot_swap import Generation
from vault_pool.runtime.hot_swap.reaper import _end


class Lent:
    """A connection, as its borrower has it; *pgconn* is libpq's."""

    closed = False

    def __init__(self, pgconn):
        self.pgconn = pgconn


def test_a_connection_that_comes_back_meanwhile_spares_no_other():
    """Its borrower has closed it: there is nothing left to cut off, and the next one is cut off."""
    gone = PGconn.connect_start(b"host=127.0.0.1")
    gone.finish()
    ours, server = socket.socketpair()
    with ours, server:
        first, second = Lent(gone), Lent(SimpleNamespace(socket=ours.fileno(), status=ConnStatus.OK))
        generation = Generation(ConnectionPool("", open=False), 1)
        generation.register(first)
        generation.register(second)

        _end(generation)

        assert server.recv(1) == b""
    assert generation.connections() == []
