"""
Threads that end while others are started.
"""

from __future__ import annotations

import threading
from functools import partial
from types import SimpleNamespace

import pytest
from psycopg_pool import ConnectionPool

from vault_pool.runtime.hot_swap import Generation
from vault_pool.runtime.hot_swap.budget import Budget
from vault_pool.runtime.hot_swap.reaper import Reaper
from vault_pool.runtime.scheduler import Workers


@pytest.fixture
def slow_start(monkeypatch):
    """The next thread waits at its start until it is let go, or for a moment: who waits for it may hold a lock."""
    reached, go_on = threading.Event(), threading.Event()
    start = threading.Thread.start

    def starting(self):
        if "worker" in self.name or "reaper" in self.name:
            reached.set()
            go_on.wait(0.2)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", starting)
    return reached


def test_workers_that_stop_wait_for_one_that_starts(no_leaks, slow_start):
    """A thread that is on its way can be joined, and its job is done."""
    workers, done = Workers(), []
    submitter = threading.Thread(target=workers.submit, args=["lane", lambda: done.append(1)])
    submitter.start()
    assert slow_start.wait(5)
    workers.stop(5.0)
    submitter.join()

    assert done == [1]


def test_a_reaper_that_closes_waits_for_its_thread(no_leaks, slow_start):
    """The generation that it was started for is finished."""
    ours, finished = Reaper("pool"), []
    generation = Generation(ConnectionPool("", open=False), 1)
    generation.on_finished = finished.append
    retiring = threading.Thread(target=ours.retire, args=[generation, 1.0])
    retiring.start()
    assert slow_start.wait(5)
    ours.close(5.0)
    retiring.join()

    assert finished == [generation]


@pytest.mark.parametrize("within", ["budget", "reaper", "doubt"])
def test_a_finalizer_that_closes_a_connection_waits_for_nobody(no_leaks, within):
    """The collector runs it in any thread, also in one that counts connections: it would wait for itself."""
    budget = Budget(1, 1)
    generation = Generation(ConnectionPool("", open=False), 1, budget=budget)
    generation.witness = SimpleNamespace()
    reaper = Reaper("pool")
    held, closing = {
        "budget": (budget.changed, generation.notify),
        "reaper": (reaper._changed, partial(reaper.close, 0.0)),
        "doubt": (generation._doubting, generation.suspect),
    }[within]

    def collect():
        with held:
            closing()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
