"""
How many connections there are while several generations retire, and afterwards.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import psycopg
import pytest

from tests.role_source import RoleSource
from vault_pool import ConfigurationError, ProofFailed, RenewalPolicy, VaultPool
from vault_pool.runtime import tenant


@pytest.fixture
def source(database):
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")
    return RoleSource(database)


@pytest.fixture
def make_pool(database, source):
    """Return a function that makes a pool of *source*'s roles."""

    def make(**options):
        policy = RenewalPolicy(requests_per_hour=360_000.0, backoff_base=0.1, backoff_cap=0.5)
        return VaultPool(database.conninfo(), source=source, policy=policy, **{"min_size": 1, "max_size": 4, **options})

    return make


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


class Client(threading.Thread):
    """Borrows a connection in a thread of its own, and keeps it until it is let go."""

    def __init__(self, pool):
        super().__init__(daemon=True)
        self.pool, self.error = pool, None
        self.served, self.release = threading.Event(), threading.Event()
        self.start()

    def run(self):
        try:
            with self.pool.connection() as conn:
                conn.execute("SELECT 1")
                self.served.set()
                self.release.wait(30)
        except psycopg.Error as error:
            self.error = error

    def finish(self):
        self.release.set()
        self.join(10)
        assert not self.is_alive()
        assert self.error is None


def test_generations_that_retire_at_once_share_the_budget(no_leaks, make_pool, database):
    """Each of them has slow clients: the newest serves with the room that they leave, one returned after the other."""
    with make_pool(overlap=1) as pool, ExitStack() as stack:
        holders = []
        for _ in range(3):
            holders.append(stack.enter_context(ExitStack()))
            holders[-1].enter_context(pool.connection())
            pool.rotate()
        assert len(pool.status().retiring) == 3
        clients = [Client(pool) for _ in range(4)]
        # Three are out, and one was opened for the newest generation; the overlap is for opening only.
        until(lambda: sum(client.served.is_set() for client in clients) == 1)
        time.sleep(0.2)
        assert len(database.sessions()) == 4
        for served, holder in enumerate(holders, 2):
            holder.close()
            until(lambda served=served: sum(client.served.is_set() for client in clients) == served)
            assert len(database.sessions()) <= 5
        until(lambda: not pool.status().retiring)
        for client in clients:
            client.finish()
        assert len(database.sessions()) <= 4


def test_a_rotation_that_finds_no_room_says_so_and_holds_up_nothing(no_leaks, make_pool, source, monkeypatch):
    """Its lease is given back, the one in force is looked after, and it is tried again."""
    monkeypatch.setattr(tenant, "PROOF_TIMEOUT", 0.3)
    with make_pool(overlap=1) as pool:
        clients = [Client(pool) for _ in range(4)]
        until(lambda: all(client.served.is_set() for client in clients))
        pool.rotate()
        with pytest.raises(ProofFailed, match="raise overlap"):
            pool.rotate(timeout=10)
        assert pool.status().generation == 2
        for client in clients:
            client.finish()
        until(lambda: pool.status().generation == 3)


def test_returns_do_not_wait_behind_growth(no_leaks, make_pool, monkeypatch):
    """With reset=, workers give connections back: none of them stands before the gate of the budget meanwhile."""
    monkeypatch.setattr(tenant, "OPENING_TIMEOUT", 0.3)
    with make_pool(min_size=4, overlap=1, reset=lambda conn: None) as pool:
        clients = [Client(pool) for _ in range(4)]
        until(lambda: all(client.served.is_set() for client in clients))
        pool.rotate()
        # One connection serves, and three that are wanted besides find no room.
        for _ in range(6):
            with pool.connection(timeout=5) as conn:
                conn.execute("SELECT 1")
        for client in clients:
            client.finish()


def test_a_pool_that_may_be_empty_looks_after_the_proven_connection(no_leaks, make_pool, database):
    """It is in the pool: checked as all are, and closed when nobody uses it for max_idle."""
    with make_pool(min_size=0, max_idle=0.2) as pool:
        pool.rotate()
        assert pool.get_stats()["pool_size"] == 1
        until(lambda: not database.sessions())


def test_what_is_set_while_a_successor_is_opened_is_for_it_too(no_leaks, make_pool):
    """It was built before."""
    opened, go_on = threading.Event(), threading.Event()
    go_on.set()

    def configure(conn):
        opened.set()
        assert go_on.wait(10)

    with make_pool(configure=configure) as pool:
        opened.clear()
        go_on.clear()
        pool.rotate(wait=False)
        assert opened.wait(10)
        pool.timeout, pool.max_waiting = 1.0, 7
        pool.resize(2, 6)
        go_on.set()
        until(lambda: pool.status().generation == 2)
        current = pool._current.pool
        assert (current.timeout, current.max_waiting, current.min_size, current.max_size) == (1.0, 7, 2, 6)


def test_after_rotations_the_pool_shrinks_to_its_least(no_leaks, make_pool, database):
    """What a burst has made it grow by goes after max_idle, as psycopg_pool has it, in every generation."""
    with make_pool(max_idle=0.2) as pool:
        for _ in range(2):
            clients = [Client(pool) for _ in range(4)]
            until(lambda clients=clients: all(client.served.is_set() for client in clients))
            pool.rotate()
            for client in clients:
                client.finish()
            clients = [Client(pool) for _ in range(3)]
            until(lambda clients=clients: all(client.served.is_set() for client in clients))
            for client in clients:
                client.finish()
            until(lambda: len(database.sessions()) == 1 == pool.get_stats()["pool_size"])


# --- Connections that cannot be configured -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda conn: conn.nonsense, ["configure", "AttributeError", "nonsense"]),
        (lambda conn: conn.execute("SELECT * FROM missing"), ["configure", "missing"]),
        (lambda conn: conn.execute("SELECT 1"), ["configure", "INTRANS", "commit"]),
    ],
)
def test_a_configure_that_fails_is_named_at_once(no_leaks, make_pool, source, fault, words):
    """With its error, not after many attempts."""
    pool = make_pool(configure=fault)
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as caught:
        pool.open()
    assert time.monotonic() - began < 3
    for word in words:
        assert word in str(caught.value)
    assert not source.live


def test_a_configure_that_fails_in_a_rotation_leaves_the_pool_as_it_was(no_leaks, make_pool):
    """An error of the database may pass: the rotation is tried again."""
    faults = []

    def configure(conn):
        if faults:
            raise psycopg.OperationalError(faults[0])

    with make_pool(configure=configure) as pool:
        faults.append("not now")
        with pytest.raises(ProofFailed, match="not now"):
            pool.rotate(timeout=5)
        with pool.connection() as conn:
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (100,)
        faults.clear()
        until(lambda: pool.status().generation == 2)
