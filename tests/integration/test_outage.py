"""
Vault is away for longer than the lease: what is open goes on.
"""

from __future__ import annotations

import logging
import threading
import time

import pytest

from tests.clients import Clients, toll
from tests.role_source import RoleSource
from vault_pool import ConfigurationError, PoolTimeout, RenewalPolicy, VaultPool
from vault_pool.errors import VaultUnavailable
from vault_pool.events import LeaseLapsed


@pytest.fixture
def source(database):
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")
    return RoleSource(database, duration=1.0)


@pytest.fixture
def make_pool(database, source):
    """Return a function that makes a pool of *source*'s roles, with a lease of one second."""

    def make(**options):
        policy = RenewalPolicy(requests_per_hour=360_000.0, backoff_base=0.1, backoff_cap=0.5)
        return VaultPool(database.conninfo(), source=source, policy=policy, **{"min_size": 1, "max_size": 4, **options})

    return make


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def go_away(source):
    source.fault, source.faulty = VaultUnavailable("Vault is sealed"), {"read", "renew", "revoke", "lookup"}


def lapse(source, pool, database):
    """Have Vault go away, and the lease of *pool* end; from then on the role may not log in, as Vault arranges it."""
    go_away(source)
    until(lambda: pool.status().phase == "lapsed")
    database.execute(f"ALTER ROLE \"{pool.status().user}\" VALID UNTIL '2000-01-01'")


def pids(database):
    return {session.pid for session in database.sessions()}


def test_a_saturated_pool_serves_on_and_recovers(no_leaks, make_pool, source, database):
    """8 threads on 4 connections, three lease durations without Vault: no request fails, sessions break meanwhile."""
    pool = make_pool(min_size=4, max_lifetime=0.5, max_idle=0.2)
    with pool, Clients(pool, 8, run=True, breaking=True) as clients:
        lapse(source, pool, database)
        before = pids(database)
        until(lambda: clients.done > 200)
        victim = next(iter(before))
        database.superuser_execute("SELECT pg_terminate_backend(%s)", [victim])
        time.sleep(2.0)
        # Neither their age nor idleness costs a session that nobody can replace.
        assert pids(database) == before - {victim}
        assert pool.status().expires_in < -1.5
        source.faulty = set()
        until(lambda: pool.status().generation == 2, 1.5)
        done = clients.done
        until(lambda: clients.done > done + 50)

    assert not clients.failed(), clients.failures()


def test_a_session_that_broke_while_idle_is_given_to_nobody(no_leaks, make_pool, source, database, caplog):
    """Each one is asked before it is lent; there are few logins, and the log says once that they are refused."""
    with make_pool(min_size=3) as pool:
        lapse(source, pool, database)
        for victim in sorted(pids(database))[:2]:
            database.superuser_execute("SELECT pg_terminate_backend(%s)", [victim])
        until(lambda: len(pids(database)) == 1)
        for _ in range(20):
            with pool.connection(timeout=2) as conn:
                assert conn.execute("SELECT count(*) FROM items").fetchone() == (100,)
        # psycopg_pool by itself would try each again for five minutes.
        time.sleep(1.5)
        assert 1 <= caplog.text.count("error connecting") <= 2


def test_who_waits_in_vain_is_told_why(no_leaks, make_pool, source, database):
    """The timeout's cause and the status name the end of the lease and what Vault said."""
    with make_pool(max_size=1) as pool:
        lapse(source, pool, database)
        with pool.connection(), pytest.raises(PoolTimeout) as caught:
            pool.getconn(timeout=0.1)
        assert "the lease has ended" in str(caught.value.__cause__)
        assert "sealed" in str(caught.value.__cause__)
        status = pool.status()
        assert (status.phase, "sealed" in status.last_error) == ("lapsed", True)


def test_the_role_is_dropped_the_moment_vault_is_back(no_leaks, make_pool, source, database):
    """Before anybody can read a new credential: that costs what was in flight, and the next read follows at once."""
    pool = make_pool(min_size=4)
    with pool, Clients(pool, 8) as clients:
        lapse(source, pool, database)
        until(lambda: clients.done > 100)
        source.faulty = set()
        source.take(pool.status().user)
        until(lambda: pool.status().generation == 2, 1.0)
        done = clients.done
        until(lambda: clients.done > done + 50)

    cost = toll(clients.requests)
    assert cost.failed <= 4, clients.failures()
    assert (cost.late, cost.dark < 5.0) == (0, True)


def test_sessions_may_be_closed_at_the_end_of_the_lease(no_leaks, make_pool, source, database, caplog):
    """on_lapse="close": clients wait, and borrowed connections end at the retire deadline."""
    events = []
    with make_pool(on_lapse="close", retire_timeout=0.3, on_event=events.append) as pool:
        go_away(source)
        until(lambda: any(isinstance(event, LeaseLapsed) for event in events))
        until(lambda: not pids(database))
        waiting = threading.Thread(target=lambda: pool.putconn(pool.getconn(timeout=10)))
        waiting.start()
        source.faulty = set()
        waiting.join(10)
        assert not waiting.is_alive()
        assert pool.status().generation == 2


def test_a_pool_that_comes_during_an_outage_waits(no_leaks, make_pool, source, database, caplog):
    """No login is tried with a credential whose lease is over."""
    caplog.set_level(logging.WARNING)
    with make_pool() as pool:
        lapse(source, pool, database)
        caplog.clear()
        late = VaultPool(database.conninfo(), source=source, min_size=1)
        late.open(wait=False)
        with pytest.raises(PoolTimeout):
            late.getconn(timeout=0.5)
        assert "login" not in caplog.text
        source.faulty = set()
        with late.connection(timeout=5) as conn:
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (100,)
        late.close()


def test_settings_of_the_outage_are_checked(make_pool):
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match="on_lapse"):
        make_pool(on_lapse="hope")
