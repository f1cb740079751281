"""
Sessions that are asked whether their role still exists, without a server.
"""

from __future__ import annotations

from types import SimpleNamespace

from psycopg.pq import ConnStatus
from psycopg_pool import ConnectionPool

from vault_pool.runtime.hot_swap import Generation
from vault_pool.runtime.hot_swap.doubt import Doubt


def test_a_session_that_says_nothing_ends_no_doubt():
    """Whose session broke after the sign has learnt nothing; the next one is asked before it is lent."""
    generation = Generation(ConnectionPool("", open=False), 1)
    generation.witness = SimpleNamespace()
    generation.doubt = doubt = Doubt()

    assert not generation.settle(SimpleNamespace(pgconn=SimpleNamespace(status=ConnStatus.BAD)))
    assert generation.doubt is doubt
