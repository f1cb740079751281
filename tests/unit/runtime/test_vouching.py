"""
Sessions that are asked whether their role still exists, without a server.
"""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace

import pytest
from psycopg.pq import ConnStatus
from psycopg_pool import ConnectionPool

from vault_pool.runtime.hot_swap import Generation, vouching
from vault_pool.runtime.hot_swap.doubt import Doubt, Verdict


def test_a_session_that_says_nothing_ends_no_doubt():
    """Whose session broke after the sign has learnt nothing; the next one is asked before it is lent."""
    generation = Generation(ConnectionPool("", open=False), 1)
    generation.witness = SimpleNamespace()
    generation.doubt = doubt = Doubt()

    assert not generation.settle(SimpleNamespace(pgconn=SimpleNamespace(status=ConnStatus.BAD)))
    assert generation.doubt is doubt


def test_a_client_that_is_interrupted_while_it_waits_gives_its_connection_back(monkeypatch):
    """By a time limit of its task runner, for one: the pool keeps its size."""
    generation, conn, returned = Generation(ConnectionPool("", open=False), 1), object(), []
    generation.witness, generation.putconn = SimpleNamespace(), returned.append
    generation.doubt = Doubt(monotonic() + 60)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(vouching, "sleep", interrupted)
    monkeypatch.setattr(vouching, "examine", lambda conn: Verdict.ALIVE)
    with pytest.raises(KeyboardInterrupt):
        generation.vouch(conn, monotonic() + 60)
    assert returned == [conn]
