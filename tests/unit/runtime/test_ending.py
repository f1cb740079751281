"""
Sessions that are lent out and have to end.
"""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

import pytest
from psycopg import Connection
from psycopg.pq import ConnStatus, PGconn
from psycopg_pool import ConnectionPool

from vault_pool.runtime.hot_swap import Generation
from vault_pool.runtime.hot_swap.reaper import Reaper, _end


class Lent:
    """A connection, as its borrower has it; *pgconn* is libpq's."""

    closed = False
    commit, __exit__ = Connection.commit, Connection.__exit__

    def __init__(self, pgconn):
        self.pgconn = pgconn

    def close(self):
        self.closed = True
        raise ZeroDivisionError("bug")


@pytest.fixture
def reaper(no_leaks):
    ours = Reaper("pool", cancels=True)
    yield ours
    ours.close(5.0)


@pytest.fixture
def generation():
    return Generation(ConnectionPool("", open=False), 1)


@pytest.fixture
def finished(generation):
    """Set when the generation has finished."""
    done = threading.Event()
    generation.on_finished = lambda _generation: done.set()
    return done


def test_a_connection_class_that_raises_ends_no_thread(reaper, generation, finished, caplog):
    """Its close() is the application's: it is logged, and the generation finishes."""
    conn = Lent(PGconn.connect_start(b"host=127.0.0.1"))
    generation.leftovers.append(conn)
    reaper.retire(generation, 10.0)

    assert finished.wait(10)
    assert "could not be closed" in caplog.text


def test_two_passes_finish_a_generation_once(reaper, generation, finished):
    """A reaper that is told to end while another generation comes has two threads for a moment."""
    reaper.retire(generation, 10.0)
    assert finished.wait(10)
    finished.clear()
    reaper._look_after(generation, at_once=True)

    assert not finished.is_set()


def test_the_reaper_ends_sessions_itself_where_no_thread_can_be_started(reaper, generation, finished, monkeypatch):
    """And goes on."""
    conn, start = Lent(SimpleNamespace()), threading.Thread.start
    conn.cancel_safe = lambda timeout: setattr(conn, "closed", True)
    generation.register(conn)

    def starting(self):
        if self.name.endswith("-ending"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", starting)
    reaper.retire(generation, 0.0)

    assert finished.wait(10)


def test_a_connection_that_comes_back_meanwhile_spares_no_other(generation):
    """Its borrower has closed it: there is nothing left to cut off, and the next one is cut off."""
    gone = PGconn.connect_start(b"host=127.0.0.1")
    gone.finish()
    ours, server = socket.socketpair()
    with ours, server:
        first, second = Lent(gone), Lent(SimpleNamespace(socket=ours.fileno(), status=ConnStatus.OK))
        generation.register(first)
        generation.register(second)

        _end(generation)

        assert server.recv(1) == b""
    assert generation.connections() == []
