"""
PostgreSQL goes and comes back: what fails is what was in flight, and the pool serves again by itself.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from contextlib import suppress

import psycopg
import pytest
from psycopg import sql

from tests.fix_postgres import Database
from tests.load import Load
from vault_pool import DynamicRole, HotSwapPool, Token, Vault, VaultPool
from vault_pool.devserver.postgres import EmbeddedPostgres
from vault_pool.runtime.hot_swap.reconnection import LONGEST_PAUSE

logger = logging.getLogger("tests.reconnection")

#: What handshakes take at most, in seconds, on a machine that does other things besides. The figures are in the log.
SLACK = 5.0


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL that may be restarted, with few slots and two addresses."""
    with EmbeddedPostgres(max_connections=24) as server:
        with server.connect(autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET listen_addresses = '127.0.0.1, 127.0.0.2'")
        server.restart()
        yield server


@pytest.fixture
def shop(server):
    """A database of it."""
    database = Database(server)
    yield database
    database.drop()


def reconnect(shop):
    """Have *shop* go on by new sessions, after a restart."""
    for conn in (shop._superuser, shop._inside):
        conn.close()
    shop._superuser = shop.server.connect(autocommit=True)
    shop._inside = shop.connect(shop.admin, autocommit=True)


def terminate(shop, login):
    """End the sessions of *login*, and return the instant at which the last of them had ended."""
    ended = {session.pid for session in shop.sessions(login.user)}
    # In one statement: they end as good as together.
    shop.superuser_execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) pid", [list(ended)])
    until(lambda: not ended & {session.pid for session in shop.sessions()})
    return time.monotonic()


@pytest.fixture
def make_pool(shop):
    """Return a function that makes a pool of *shop*, without Vault: its sessions are all that matters here."""
    login = shop.create_login()

    def make(conninfo=None, **options):
        given = conninfo or shop.conninfo(user=login.user, password=login.password)
        return HotSwapPool(given, **{"min_size": 4, "max_size": 8, "timeout": 20.0, "open": False, **options})

    make.login = login
    return make


def served_after(load, moment):
    """Wait until *load* has finished requests that it began after *moment*; return how long after it the first was."""
    count = len(load.instants)
    until(lambda: len(load.instants) > count + 20)
    took = min(instant for instant in load.instants if instant > moment) - moment
    logger.warning("%d failed in flight; served again after %.3f s", len(load.failed), took)
    return took


class Clients(Load):
    """Load whose finished requests can be seen while it runs."""

    def __init__(self, pool, fast=6, slow=0, think=0.005):
        self.instants = []
        super().__init__(pool, fast=fast, slow=slow, think=think, request=self.count)

    def count(self, conn):
        conn.execute("SELECT name FROM items WHERE id = 1").fetchone()
        self.instants.append(time.monotonic())


def in_flight_only(load, ended_at, most):
    """Whatever failed was begun before a session was found to have ended; each session failed once at most."""
    noticed_at = min((noticed for _, noticed, _ in load.failed if noticed >= ended_at), default=ended_at)
    late = [words for began, _, words in load.failed if began > noticed_at]
    assert late == []
    assert len(load.failed) <= most, load.failures


def test_one_broken_session_tells_of_all(make_pool, shop):
    """Eight idle connections are ended: one request fails, and no other of them is lent."""
    with make_pool(min_size=8) as pool:
        pool.wait()
        terminate(shop, make_pool.login)
        with pytest.raises(psycopg.OperationalError), pool.connection() as conn:
            conn.execute("SELECT 1")
        for _ in range(20):
            with pool.connection() as conn:
                conn.execute("SELECT 1")
        until(lambda: pool.get_stats()["pool_available"] == 8)


def test_sessions_that_are_terminated_under_load(make_pool, shop):
    """Those who were at it fail, each session once at most."""
    with make_pool() as pool:
        pool.wait()
        with Clients(pool) as load:
            until(lambda: len(load.instants) > 20)
            ended_at = terminate(shop, make_pool.login)
            took = served_after(load, ended_at)

    in_flight_only(load, ended_at, 8)
    assert took < SLACK


def test_a_restart_under_load(make_pool, shop):
    """Clients wait for it, and none of them fails but who was at it."""
    with make_pool() as pool:
        pool.wait()
        with Clients(pool) as load:
            until(lambda: len(load.instants) > 20)
            shop.server.halt()
            ended_at = time.monotonic()
            shop.server.restart()
            took = served_after(load, time.monotonic())

    in_flight_only(load, ended_at, 8)
    assert took < LONGEST_PAUSE + SLACK
    reconnect(shop)


@pytest.mark.parametrize("vault_process", ["devserver"], indirect=True, scope="session")
def test_a_restart_under_a_vault_pool(shop, vault_process, vault_server):
    """With a credential of Vault: it is none the worse for it, and is not replaced."""
    vault_server.database_role(shop)
    vault = Vault(vault_server.address, auth=Token(vault_server.root_token))
    source = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    with VaultPool(shop.conninfo(), source=source, min_size=2, max_size=6) as pool:
        user = pool.status().user
        with Clients(pool) as load:
            until(lambda: len(load.instants) > 20)
            shop.server.halt()
            ended_at = time.monotonic()
            shop.server.restart()
            took = served_after(load, time.monotonic())
        reconnect(shop)
        in_flight_only(load, ended_at, 6)
        assert took < LONGEST_PAUSE + SLACK
        assert pool.status().user == user
        pool.rotate()
        with pool.connection() as conn:
            assert conn.execute("SELECT current_user").fetchone() != (user,)


def test_out_of_slots(make_pool, shop, caplog):
    """53300 while others hold every slot: nobody fails but by the loss of its session, and it passes by itself."""
    hogs, greedy = [], shop.create_login()
    with make_pool() as pool:
        pool.wait()
        with Clients(pool) as load:
            until(lambda: len(load.instants) > 20)
            stop = threading.Event()

            def hog():
                while not stop.wait(0.002):
                    with suppress(psycopg.OperationalError):
                        hogs.append(shop.connect(greedy))

            thread = threading.Thread(target=hog)
            thread.start()
            try:
                until(lambda: len(hogs) > 8)
                turns = 0
                while not re.search("too many clients|remaining connection slots", caplog.text):
                    # Now and then the pool is faster than the others.
                    ended_at = terminate(shop, make_pool.login)
                    turns += 1
                    time.sleep(0.5)
                stop.set()
            finally:
                stop.set()
                thread.join()
            for conn in hogs:
                conn.close()
            took = served_after(load, time.monotonic())

    in_flight_only(load, ended_at, 8 * turns)
    assert took < LONGEST_PAUSE + SLACK


def test_failover_to_another_address(make_pool, shop, postgres):
    """Two hosts, target_session_attrs=read-write: the one that accepts writes is found, whichever it is by then."""
    other = Database(postgres)
    login = make_pool.login
    grant = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}").format(
        sql.Identifier(login.user), sql.Literal(login.password), sql.Identifier(other.group)
    )
    other.execute(grant)
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    other._inside.close()
    other.superuser_execute(rename.format(sql.Identifier(other.name), sql.Identifier(shop.name)))
    other.name = shop.name

    def writable(database, yes):
        setting = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
        state = sql.SQL("off" if yes else "on")
        database.superuser_execute(setting.format(sql.Identifier(shop.name), state))

    writable(other, yes=False)
    conninfo = (
        f"host={shop.server.host},{postgres.host} port={shop.server.port},{postgres.port} dbname={shop.name} "
        f"user={login.user} password={login.password} target_session_attrs=read-write"
    )
    ports = []
    with make_pool(conninfo) as pool:
        pool.wait()
        with Clients(pool) as load:
            until(lambda: len(load.instants) > 20)
            with pool.connection() as conn:
                ports.append(conn.info.port)
            writable(shop, yes=False)
            writable(other, yes=True)
            ended_at = terminate(shop, login)
            took = served_after(load, ended_at)
            with pool.connection() as conn:
                ports.append(conn.info.port)
                conn.execute("INSERT INTO items (name) VALUES ('written')")
    writable(shop, yes=True)
    other.drop()

    assert ports == [shop.server.port, postgres.port]
    in_flight_only(load, ended_at, 8)
    assert took < SLACK


def test_a_name_that_means_another_address_by_now(make_pool, shop, monkeypatch):
    """The host is looked up for each connection; while it cannot be, clients wait."""
    addresses = ["127.0.0.1"]
    resolve = socket.getaddrinfo

    def resolver(host, *args, **options):
        if host != "db.example.test":
            return resolve(host, *args, **options)
        if not addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(addresses[0], *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    login = make_pool.login
    conninfo = shop.conninfo(host="db.example.test", user=login.user, password=login.password, sslmode="disable")

    def address(pool):
        with pool.connection() as conn:
            return conn.execute("SELECT host(inet_server_addr())").fetchone()[0]

    with make_pool(conninfo) as pool:
        pool.wait()
        with Clients(pool) as load:
            until(lambda: len(load.instants) > 20)
            before = address(pool)
            addresses.clear()
            ended_at = terminate(shop, login)
            addresses.append("127.0.0.2")
            took = served_after(load, ended_at)
            after = address(pool)

    assert (before, after) == ("127.0.0.1", "127.0.0.2")
    in_flight_only(load, ended_at, 8)
    assert took < LONGEST_PAUSE + SLACK


def test_an_address_that_is_asked_for_each_connection(make_pool, shop):
    """`conninfo` may be a function."""
    login = make_pool.login
    host = "127.0.0.1"

    def conninfo():
        return shop.conninfo(host=host, user=login.user, password=login.password, sslmode="disable")

    with make_pool(conninfo, min_size=1) as pool:
        pool.wait()  # who comes before would have another one opened
        with pool.connection() as conn:
            assert conn.execute("SELECT host(inet_server_addr())").fetchone() == ("127.0.0.1",)
        host = "127.0.0.2"
        terminate(shop, login)
        with pytest.raises(psycopg.OperationalError), pool.connection() as conn:
            conn.execute("SELECT 1")
        with pool.connection() as conn:
            assert conn.execute("SELECT host(inet_server_addr())").fetchone() == ("127.0.0.2",)
