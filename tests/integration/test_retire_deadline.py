"""
What becomes of connections that are still out when their generation should be gone.
"""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from tests.role_source import RoleSource
from vault_pool import ConfigurationError, RenewalPolicy, VaultPool
from vault_pool.errors import VaultUnavailable
from vault_pool.runtime.hot_swap.ending import cut_off


@pytest.fixture
def source(database):
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")
    return RoleSource(database)


@pytest.fixture
def make_pool(database, source):
    """Return a function that makes a pool of *source*'s roles, with a retire deadline of 0.3 s."""

    def make(**options):
        policy = RenewalPolicy(requests_per_hour=360_000.0, backoff_base=0.1, backoff_cap=0.5)
        options = {"min_size": 1, "max_size": 4, "retire_timeout": 0.3, "policy": policy, **options}
        return VaultPool(database.conninfo(), source=source, **options)

    return make


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def pid(conn):
    return conn.info.backend_pid


def alive(database, *backends):
    return {session.pid for session in database.sessions()} & set(backends)


def overdue(pool, caplog):
    until(lambda: "past its retire timeout" in caplog.text)


def test_a_slow_holder_is_named_and_left_alone(no_leaks, make_pool, database, caplog):
    """A planned rotation takes nothing from anybody."""
    with make_pool() as pool:
        with pool.connection() as conn:
            conn.execute("UPDATE items SET name = 'kept' WHERE id = 1")
            pool.rotate()
            overdue(pool, caplog)
            time.sleep(0.3)
            conn.execute("SELECT 1")
        assert "MainThread" in caplog.text
        assert "test_retire_deadline" not in caplog.text
        assert database.execute("SELECT name FROM items WHERE id = 1") == [("kept",)]


def test_in_debug_mode_the_log_has_the_calls(no_leaks, make_pool, caplog):
    """By which the connection was borrowed; the happy path keeps none."""
    with make_pool(debug=True) as pool:
        with pool.connection():
            pool.rotate()
            overdue(pool, caplog)
        assert "in test_in_debug_mode_the_log_has_the_calls" in caplog.text
        conn = pool.getconn()
        assert "test_in_debug_mode" in conn._stack
        pool.putconn(conn)


def test_what_a_slow_holder_does_may_be_cancelled(no_leaks, make_pool):
    """on_retire_timeout="cancel": the statement fails, the session and its owner go on."""
    with make_pool(on_retire_timeout="cancel") as pool, pool.connection() as conn:
        threading.Timer(0.1, pool.rotate).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT pg_sleep(30)")
        conn.rollback()
        assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("busy", [False, True], ids=["idle in transaction", "running a statement"])
@pytest.mark.parametrize("assumed", [False, True], ids=["plain", "assumed role"])
def test_sessions_of_a_revoked_lease_are_cut_off(no_leaks, make_pool, source, database, assumed, busy):
    """At the deadline, not before; the owner hears of it as of any lost connection, and nothing stays in the server."""
    more = {"assume_role": database.group, "lookup_interval": 0.1} if assumed else {}
    with make_pool(min_size=2, **more) as pool:
        with pytest.raises(psycopg.OperationalError), pool.connection() as conn:
            backend = pid(conn)
            conn.execute("UPDATE items SET name = 'lost' WHERE id = 1")
            source.take(pool.status().user)
            if not assumed:
                with pytest.raises(psycopg.errors.InsufficientPrivilege), pool.connection() as other:
                    other.execute("SELECT * FROM items")
            until(lambda: pool.status().generation == 2, 2)
            if busy:
                with pytest.raises(psycopg.errors.QueryCanceled):
                    conn.execute("SELECT pg_sleep(30)")
            else:
                began = time.monotonic()
                until(lambda: not alive(database, backend))
                assert time.monotonic() - began < 2
            until(lambda: not pool.status().retiring)
            conn.execute("SELECT 1")
        assert conn.closed
        assert not alive(database, backend)
        assert database.execute("SELECT name FROM items WHERE id = 1") != [("lost",)]
        with pool.connection() as conn:
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (100,)


def test_with_an_assumed_role_the_end_of_the_lease_ends_its_sessions(no_leaks, make_pool, source, database, caplog):
    """Retired by plan, kept alive by renewing, and cut off when renewing finds the lease gone after the deadline."""
    source.duration = 1.5
    with make_pool(assume_role=database.group, retire_timeout=0.1) as pool:
        conn = pool.getconn()
        old, backend = pool.status().user, pid(conn)
        pool.rotate()
        overdue(pool, caplog)
        until(lambda: source.requests["renew"] >= 1)
        assert alive(database, backend)
        source.fault, source.faulty = VaultUnavailable("away"), {"renew"}
        until(lambda: not alive(database, backend), 5)
        assert conn.info.user == old
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
        pool.putconn(conn)


def test_a_session_that_outlives_its_lease_without_a_role_is_left_alone(no_leaks, make_pool, source, caplog):
    """It has no rights any more as soon as Vault has dropped its user; until then its owner may finish."""
    source.duration = 0.6
    source.fault, source.faulty = VaultUnavailable("away"), {"renew"}
    with make_pool(retire_timeout=0.1) as pool, pool.connection() as conn:
        pool.rotate()
        overdue(pool, caplog)
        time.sleep(1.0)
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_long_outage_ends_the_sessions_of_an_assumed_role(no_leaks, make_pool, source, database, caplog):
    """After max_lapse nobody is served any more, and at the retire deadline what is out is cut off."""
    source.duration = 0.5
    with make_pool(assume_role=database.group, max_lapse=0.5, retire_timeout=0.3) as pool:
        conn = pool.getconn()
        backend = pid(conn)
        source.fault, source.faulty = VaultUnavailable("away"), {"read", "renew", "lookup", "revoke"}
        until(lambda: pool.status().phase == "lapsed")
        with pool.connection() as other:
            assert other.execute("SELECT count(*) FROM items").fetchone() == (100,)
        lapsed = time.monotonic()
        until(lambda: "nobody could say whether it was revoked" in caplog.text)
        assert 0.3 < time.monotonic() - lapsed < 5
        with pytest.raises(psycopg.OperationalError), pool.connection(timeout=0.05):
            pass
        until(lambda: not alive(database, backend), 2)
        source.faulty = set()
        pool.putconn(conn)
        with pool.connection() as other:
            assert other.execute("SELECT count(*) FROM items").fetchone() == (100,)


def test_max_lapse_is_one_lease_duration_unless_it_is_set(no_leaks, make_pool, source, database, caplog):
    """The least that keeps an outage as long as the lease itself from being felt."""
    source.duration = 0.5
    with make_pool(assume_role=database.group):
        source.fault, source.faulty = VaultUnavailable("away"), {"read", "renew", "lookup", "revoke"}
        until(lambda: "nobody could say whether it was revoked" in caplog.text, 3)


def test_a_cut_never_meets_the_descriptor_of_another(database):
    """The connection was closed, and its descriptor is somebody else's by now."""
    login = database.create_login()
    conn = database.connect(login)
    descriptor = conn.fileno()
    conn.close()
    with database.connect(login) as other:
        assert other.fileno() == descriptor

        class Stale:
            """What `conn` looked like a moment before it was closed."""

            class pgconn:  # noqa: N801
                socket = descriptor
                status = conn.pgconn.status

        cut_off(Stale)
        assert other.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("setting", ["on_retire_timeout", "on_lapse"])
def test_choices_are_checked(make_pool, setting):
    """The error names the setting and what it may be."""
    with pytest.raises(ConfigurationError, match=f"{setting} must be '"):
        make_pool(**{setting: "maybe"})
