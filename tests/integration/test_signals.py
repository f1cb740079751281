"""
Signs that a credential was lost: which count, what they lead to, and what they must not.
"""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from tests.clients import Clients, toll
from tests.role_source import RoleSource
from vault_pool import PoolTimeout, RenewalPolicy, VaultPool
from vault_pool.core.lease import Lease
from vault_pool.errors import VaultDenied, VaultUnavailable
from vault_pool.events import LeaseLost
from vault_pool.runtime.hot_swap import vouching
from vault_pool.sources.base import Issued


@pytest.fixture
def source(database):
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")
    return RoleSource(database)


@pytest.fixture
def make_pool(database, source):
    """Return a function that makes a pool of *source*'s roles."""

    def make(**options):
        policy = RenewalPolicy(requests_per_hour=360_000.0)
        return VaultPool(database.conninfo(), source=source, policy=policy, **{"min_size": 1, "max_size": 2, **options})

    return make


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def query(pool):
    with pool.connection() as conn:
        return conn.execute("SELECT count(*) FROM items").fetchone()


def test_a_missing_grant_rotates_nothing(no_leaks, make_pool, source, database):
    """42501 at full speed: no rotation, hardly a lookup, and nobody else notices."""
    database.execute("CREATE TABLE secret (x int)")

    def forbidden(conn):
        conn.execute("SELECT * FROM secret")

    with make_pool(max_size=4) as pool:
        with Clients(pool, 2, request=forbidden) as bad, Clients(pool, 2) as good:
            until(lambda: bad.done > 300 and good.done > 300)
        assert pool.status().generation == 1
        assert len(bad.failed()) == len(bad.requests)
        assert not good.failed()
        assert source.requests["read"] == 1
        assert source.requests["lookup"] <= 4


@pytest.mark.parametrize("way", ["connection", "getconn", "autocommit", "cursor", "caught"])
def test_a_dropped_role_is_noticed_whichever_way_a_statement_fails(no_leaks, make_pool, source, way):
    """By the session's own word when it comes back; the next client has the successor."""
    with make_pool(kwargs={"autocommit": way == "autocommit"}) as pool:
        source.take(pool.status().user)
        if way == "getconn":
            conn = pool.getconn()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("SELECT * FROM items")
            pool.putconn(conn)
        elif way == "caught":
            with pool.connection() as conn:
                with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
                    conn.execute("SELECT * FROM items")
                conn.execute("SELECT 1")
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege), pool.connection() as conn:
                if way == "cursor":
                    with conn.cursor(name="server_side") as cursor:
                        cursor.execute("SELECT * FROM items")
                else:
                    conn.execute("SELECT * FROM items")
        assert query(pool) == (100,)
        assert pool.status().generation == 2
        assert source.requests["read"] == 2


def test_who_asks_for_a_connection_in_doubt_never_gets_a_dead_one(no_leaks, make_pool, source):
    """The failed session is still out, so nothing is confirmed: each checkout asks the session that it was given."""
    with make_pool(min_size=2) as pool, pool.connection() as conn:
        source.take(pool.status().user)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM items")
        assert pool.status().generation == 1
        assert query(pool) == (100,)
        assert pool.status().generation == 2
        conn.rollback()


def test_who_queues_is_not_handed_a_dead_session(no_leaks, make_pool, source):
    """A session that another client gives back in good faith goes to nobody once there is doubt."""
    with make_pool(min_size=2) as pool:
        first, second = pool.getconn(), pool.getconn()
        served = []
        queued = threading.Thread(target=lambda: served.append(query(pool)))
        queued.start()
        until(lambda: pool.get_stats().get("requests_waiting") == 1)
        source.take(pool.status().user)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            first.execute("SELECT * FROM items")
        pool.putconn(second)
        queued.join(10)
        assert served == [(100,)]
        first.rollback()
        pool.putconn(first)
        assert pool.status().generation == 2


def test_a_check_that_looks_at_a_table_finds_a_lost_role(no_leaks, make_pool, source, monkeypatch):
    """psycopg_pool by itself would have the client wait for one, two, four seconds, and offer it the same sessions."""
    pauses = []
    monkeypatch.setattr("psycopg_pool.pool.sleep", lambda seconds: (pauses.append(seconds), time.sleep(seconds)))

    def check(conn):
        conn.execute("SELECT 1 FROM items")
        conn.rollback()

    with make_pool(min_size=4, max_size=4, check=check) as pool:
        assert query(pool) == (100,)
        source.take(pool.status().user)
        assert query(pool) == (100,)
        assert [seconds for seconds in pauses if seconds > 0] == []
        assert pool.status().generation == 2


@pytest.mark.parametrize("run", [False, True], ids=["connection", "run"])
def test_rights_that_go_before_the_role_does(no_leaks, make_pool, source, database, run, monkeypatch):
    """As by Vault's default revocation of a role with grants of its own: a session that is well is asked again."""
    # Some milliseconds of Vault's; what lies between the two statements here may be more.
    monkeypatch.setattr(vouching, "WAIT", 5.0)
    with make_pool(min_size=4, max_size=4) as pool, Clients(pool, 8, run=run) as clients:
        until(lambda: clients.done > 100)
        user = pool.status().user
        database.execute(f'REVOKE "{database.group}" FROM "{user}"')
        until(lambda: pool._current.doubt is not None)
        source.take(user)
        until(lambda: pool.status().generation == 2)
        done = clients.done
        until(lambda: clients.done > done + 100)

    cost = toll(clients.requests)
    assert cost.failed <= (0 if run else 4), clients.failures()
    assert cost.late == 0


def test_an_ordinary_error_holds_nobody_up_for_long(no_leaks, make_pool):
    """A tenth of a second, and after that not again for a while."""

    def forbidden(conn):
        conn.execute("CREATE ROLE mine")

    with make_pool() as pool:
        waits = []
        for _ in range(5):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), pool.connection() as conn:
                forbidden(conn)
            began = time.monotonic()
            assert query(pool) == (100,)
            waits.append(time.monotonic() - began)
        assert pool.status().generation == 1
    assert waits[0] > 0.05
    assert sorted(waits[1:])[1] < waits[0]


def test_a_sign_of_a_retired_generation_does_nothing(no_leaks, make_pool, source):
    """The healthy successor must not pay for it."""
    with make_pool() as pool:
        old = pool.status().user
        conn = pool.getconn()
        pool.rotate()
        source.take(old)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM items")
        pool.report_lost(conn)
        conn.rollback()
        pool.putconn(conn)
        lookups = source.requests["lookup"]
        assert query(pool) == (100,)
        assert pool.status().generation == 2
        assert source.requests["lookup"] == lookups == 0


def test_a_refused_login_has_the_lease_looked_up(no_leaks, make_pool, source, database):
    """A pool that grows finds the role gone before any statement does: sessions are asked, and Vault is."""
    with make_pool(min_size=1, max_size=2) as pool:
        conn = pool.getconn()
        source.take(pool.status().user)
        assert query(pool) == (100,)
        assert pool.status().generation == 2
        conn.rollback()
        pool.putconn(conn)


def test_a_login_that_goes_on_being_refused_has_a_successor_fetched(no_leaks, make_pool, source, database):
    """The lease is in force and the sessions are well, but nobody can log in: such a credential is of no use."""
    with make_pool(min_size=1, max_size=2) as pool:
        old = pool.status().user
        with pool.connection() as conn:
            database.execute(f"ALTER ROLE \"{old}\" VALID UNTIL '2000-01-01'")
            assert query(pool) == (100,)
            assert pool.status().generation == 2
            # Nobody took it out of service: its session is as good as ever.
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (100,)
        assert source.requests["lookup"] >= 1


def test_a_polled_credential_is_read_again_at_the_first_refusal(no_leaks, make_pool, source, database):
    """And its open sessions go on: a static role keeps them when its password changes."""
    read, login = source.read, database.create_login()

    def read_static(now):
        source.requests["read"] += 1
        return Issued(
            credential=type(read(now).credential)(login.user, passwords[-1]),
            lease=Lease.looked_up(str(len(passwords)), 3600.0, now),
        )

    passwords = [login.password]
    source.read = read_static
    seen = []
    with make_pool(min_size=1, max_size=2, on_event=seen.append) as pool, pool.connection() as conn:
        passwords.append("another password")
        database.execute(f"ALTER ROLE \"{login.user}\" PASSWORD 'another password'")
        assert query(pool) == (100,)
        assert conn.execute("SELECT count(*) FROM items").fetchone() == (100,)
        assert pool.status().generation == 2
    assert not [event for event in seen if isinstance(event, LeaseLost)]


def test_a_revocation_that_no_statement_meets_is_noticed_by_lookup(no_leaks, make_pool, source, database):
    """An idle pool learns of it within lookup_interval, from Vault: here the role itself is still there."""
    with make_pool(lookup_interval=0.3) as pool:
        user = pool.status().user
        source.live.pop(user)
        until(lambda: pool.status().generation == 2, 3)
        assert source.requests["lookup"] >= 1


def test_a_role_that_is_gone_is_noticed_without_vault(no_leaks, make_pool, source):
    """An idle session is asked as well."""
    with make_pool(lookup_interval=0.3) as pool:
        source.fault, source.faulty = VaultUnavailable("away"), {"lookup"}
        source.take(pool.status().user)
        until(lambda: pool.status().generation == 2, 3)


def test_a_question_that_nobody_answers_is_not_asked_twice(no_leaks, database, source, tcp_proxy):
    """The network swallows it: were each idle session asked in turn, no worker would be left for the rotation."""
    proxy = tcp_proxy(database.server.host, database.server.port)
    conninfo = f"{database.conninfo()} host={proxy.host} port={proxy.port}"
    with VaultPool(conninfo, source=source, min_size=2, max_size=2) as pool:
        until(lambda: pool.get_stats()["pool_available"] == 2)
        proxy.deaf()
        threads = [threading.Thread(target=pool._current.inquire, daemon=True) for _ in range(2)]
        threads[0].start()
        until(lambda: pool.get_stats()["pool_available"] == 1)
        threads[1].start()
        threads[1].join(10)
        assert not threads[1].is_alive()
        assert pool.get_stats()["pool_available"] == 1
        proxy.pass_through()
        threads[0].join(10)
        assert pool.get_stats()["pool_available"] == 2


def test_lookups_that_a_policy_forbids_are_given_up(no_leaks, make_pool, source, caplog):
    """The log says so once."""
    source.fault, source.faulty = VaultDenied("no"), {"lookup"}
    with make_pool(lookup_interval=0.05) as pool:
        until(lambda: "looked up" in caplog.text)
        time.sleep(0.2)
        assert pool.status().generation == 1
    assert source.requests["lookup"] == 1
    assert caplog.text.count("cannot be looked up") == 1


def test_the_word_of_the_application_fetches_a_successor(no_leaks, make_pool, source):
    """While the current generation serves on; again and again it fetches no storm of them."""
    with make_pool() as pool:
        pool.report_lost()
        until(lambda: pool.status().generation == 2)
        for _ in range(200):
            pool.report_lost()
            assert query(pool) == (100,)
        time.sleep(0.2)
        assert pool.status().generation <= 3


def test_a_vault_that_is_away_lets_clients_wait_with_the_reason(no_leaks, make_pool, source):
    """Revoked, and no successor to be had: the timeout names why, and service comes back by itself."""
    with make_pool() as pool:
        source.fault, source.faulty = VaultUnavailable("Vault is sealed"), {"read"}
        source.take(pool.status().user)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            query(pool)
        with pytest.raises(PoolTimeout) as caught, pool.connection(timeout=0.2):
            pass
        assert "sealed" in str(caught.value.__cause__)
        source.faulty = set()
        assert query(pool) == (100,)


def test_a_second_revocation_in_the_middle_of_the_recovery(no_leaks, make_pool, source):
    """The successor is revoked as soon as it is there; the one after it serves."""
    with make_pool(min_size=2, max_size=4) as pool, Clients(pool, 4) as clients:
        until(lambda: clients.done > 100)
        for number in range(1, 6):
            source.take(pool.status().user)
            until(lambda number=number: pool.status().generation > number)
        done = clients.done
        until(lambda: clients.done > done + 100)

    assert all(r.error.sqlstate == "42501" for r in clients.failed())
    assert toll(clients.requests).dark < 2
