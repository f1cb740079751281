"""
Rotation after rotation under load, the role of each really dropped when it is no longer needed.
"""

from __future__ import annotations

import os
import threading
import time

import psycopg
import pytest

from tests.load import Load
from tests.role_source import RoleSource
from vault_pool import Fixed, PoolTimeout, RenewalPolicy, VaultPool
from vault_pool.errors import VaultUnavailable

#: How many times the bounded number of rotations: for a longer run by hand.
SCALE = float(os.environ.get("VAULT_POOL_TEST_SCALE", "1"))


@pytest.fixture
def source(database):
    """A source of roles in a table with rows for every thread of the load."""
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 1000) n")
    return RoleSource(database)


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def sampled(stop, database, peak):
    """Keep the largest number of sessions of created roles, dropped ones included, in *peak*."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usesysid <> ALL(%s)"
    known = [
        oid
        for (oid,) in database.superuser_execute(
            "SELECT oid FROM pg_roles WHERE rolname = ANY(%s)", [[database.admin.user, database.server.user]]
        )
    ]
    with database.connect(database.admin, autocommit=True) as conn:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], conn.execute(query, [database.name, known]).fetchone()[0])


@pytest.mark.timeout(180)
def test_rotations_fail_no_request_and_leave_nothing(no_leaks, database, source):
    """200 rotations under fast and slow threads, on a pool that grows from 1 to 8: no error, no long wait, no rest."""
    rotations = round(200 * SCALE)
    overlap = 2
    # Without the limit that protects Vault: 200 rotations would take it one and a half minutes.
    policy = RenewalPolicy(requests_per_hour=360_000.0)
    pool = VaultPool(database.conninfo(), source=source, min_size=1, max_size=8, overlap=overlap, policy=policy)
    peak, stop = [0], threading.Event()
    sampler = threading.Thread(target=sampled, args=[stop, database, peak])
    with pool, Load(pool, fast=8, slow=2, slow_seconds=0.5, think=0.01) as load:
        sampler.start()
        for _ in range(rotations):
            pool.rotate()
        until(lambda: len(source.dropped) >= rotations - 20)
        stop.set()
        sampler.join()
        assert pool.status().generation == rotations + 1

    assert not load.failures
    assert load.requests > 10 * rotations
    assert load.slow_finished > 5
    assert load.longest_checkout < 5.0
    assert peak[0] <= 8 + overlap
    until(lambda: not database.sessions())
    assert database.roles() == []
    assert len(source.dropped) == rotations + 1
    assert not source.live


def test_slow_clients_do_not_double_the_sessions(no_leaks, database, source):
    """While old connections are out the successor does with the room that they leave, and what *overlap* adds."""
    policy = RenewalPolicy(requests_per_hour=360_000.0)
    pool = VaultPool(database.conninfo(), source=source, min_size=1, max_size=4, overlap=1, policy=policy)
    peak, stop = [0], threading.Event()
    sampler = threading.Thread(target=sampled, args=[stop, database, peak])
    with pool, Load(pool, fast=2, slow=8, slow_seconds=0.3, think=0.01) as load:
        sampler.start()
        for _ in range(12):
            pool.rotate()
            finished = load.slow_finished
            until(lambda finished=finished: load.slow_finished >= finished + 2)
        stop.set()
        sampler.join()

    assert not load.failures
    assert 4 <= peak[0] <= 5


def test_a_role_lives_until_its_last_connection_is_back(no_leaks, database, source):
    """A transaction begun before the rotation has its rights to the end; the role is dropped right after it."""
    with VaultPool(database.conninfo(), source=source, min_size=1, max_size=2) as pool:
        old = pool.status().user
        with pool.connection() as conn:
            conn.execute("UPDATE items SET name = 'a' WHERE id = 1")
            pool.rotate()
            second = pool.status().user
            pool.rotate()
            until(lambda: source.dropped == [second])
            conn.execute("UPDATE items SET name = 'b' WHERE id = 1")
        until(lambda: old not in database.roles())

        assert database.execute("SELECT name FROM items WHERE id = 1") == [("b",)]
        until(lambda: database.roles() == [pool.status().user])


def test_a_credential_that_fails_its_proof_is_dropped_and_the_pool_serves_on(no_leaks, database, source):
    """A rotation to a role that may not log in raises the database's own words and changes nothing."""
    seen = []
    with VaultPool(database.conninfo(), source=source, min_size=1, max_size=2, on_event=seen.append) as pool:
        read = source.read

        def read_nologin(now):
            issued = read(now)
            database.execute(f'ALTER ROLE "{issued.credential.user}" NOLOGIN')
            return issued

        source.read = read_nologin
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            pool.rotate(timeout=20)
        source.read = read
        assert pool.status().generation == 1
        with pool.connection() as conn:
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (1000,)
        until(lambda: pool.status().generation == 2)
        until(lambda: database.roles() == [pool.status().user])
    assert database.roles() == []


def test_settings_are_kept_by_successors(no_leaks, database, source):
    """What was changed on the pool holds after a rotation."""
    with VaultPool(database.conninfo(), source=source, min_size=1, max_size=2) as pool:
        pool.timeout, pool.max_idle, pool.close_returns, pool.kwargs = 7.0, 60.0, True, {"application_name": "mine"}
        pool.resize(2, 3)
        assert pool._budget.overlap == 2  # as many as min_size, as nothing else was said
        pool.rotate()
        assert (pool.timeout, pool.max_idle, pool.close_returns, pool.max_waiting) == (7.0, 60.0, True, 0)
        assert (pool.min_size, pool.max_size) == (2, 3)
        with pool.connection() as conn:
            assert conn.info.parameter_status("application_name") == "mine"
        assert pool.get_stats()["pool_available"] == 2
        assert "password" not in str(pool.kwargs) + str(pool.conninfo)


def test_requests_are_counted_across_rotations(no_leaks, database, source):
    """Also while there is no current generation."""
    with VaultPool(database.conninfo(), source=source, min_size=1) as pool:
        for _ in range(3):
            with pool.connection() as conn:
                conn.execute("SELECT 1")
            pool.rotate()
        assert pool.get_stats()["requests_num"] == 3
        pool._vacate()
        assert pool.get_stats()["requests_num"] == 3


def test_open_waits_for_min_size(no_leaks, database, source):
    """As psycopg_pool's wait() does."""
    with VaultPool(database.conninfo(), source=source, min_size=4) as pool:
        assert pool.get_stats()["pool_available"] == pool.get_stats()["connections_num"] == 4


def test_a_pool_that_cannot_be_filled_says_why(no_leaks, database):
    """It has one connection and needs two; what it had is given back, and it may be opened again."""
    login = database.create_login()
    database.execute(f'ALTER ROLE "{login.user}" CONNECTION LIMIT 1')
    pool = VaultPool(database.conninfo(), source=Fixed(login.user, login.password), min_size=2)
    with pytest.raises(PoolTimeout, match=r"1 of 2 connections were ready .*: .*too many connections"):
        pool.open(timeout=0.5)
    until(lambda: not database.sessions())
    database.execute(f'ALTER ROLE "{login.user}" CONNECTION LIMIT 2')
    pool.open()
    assert pool.get_stats()["pool_available"] == 2
    pool.close()


def test_reconnect_failed_is_told_of_the_pool(no_leaks, database, source, tcp_proxy):
    """The application knows one pool, not its generations."""
    proxy = tcp_proxy(database.server.host, database.server.port)
    conninfo = f"{database.conninfo()} host={proxy.host} port={proxy.port}"
    told = []
    options = {"min_size": 1, "reconnect_timeout": 0.1, "reconnect_failed": told.append}
    with VaultPool(conninfo, source=source, **options) as pool:
        proxy.refuse()
        proxy.cut()
        with pytest.raises(psycopg.OperationalError), pool.connection() as conn:
            conn.execute("SELECT 1")
        until(lambda: told)
        assert told[0] is pool
        proxy.pass_through()


def test_a_pool_that_has_served_outlives_a_wait_in_vain(no_leaks, database, source):
    """A probe of readiness calls wait(); in an outage it must not be what ends the pool."""
    with VaultPool(database.conninfo(), source=source, min_size=1) as pool:
        source.fault, source.faulty = VaultUnavailable("away"), {"read"}
        pool._tenant.vacate()
        pool.rotate(wait=False)
        with pytest.raises((PoolTimeout, VaultUnavailable)):
            pool.wait(0.3)
        assert not pool.closed
        source.faulty = set()
        with pool.connection(timeout=10) as conn:
            conn.execute("SELECT 1")
