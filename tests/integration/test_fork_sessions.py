"""
fork() with connections out: the child reaches no session of the parent, whatever it does. Pools without Vault.
"""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from tests.children import Child, in_child, sockets
from tests.fix_postgres import Database
from vault_pool import HotSwapPool, PoolClosed, PoolError
from vault_pool.devserver.postgres import EmbeddedPostgres
from vault_pool.devserver.tls import ThrowawayCertificate
from vault_pool.runtime import forking


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def who(pool):
    """Return the user and the server process of a connection of *pool*."""
    with pool.connection(timeout=10) as conn:
        return conn.execute("SELECT current_user::text, pg_backend_pid()").fetchone()


# --- Connections that are out ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_postgres():
    """A system's PostgreSQL with TLS; the embedded one is built without."""
    try:
        server = EmbeddedPostgres(bin_dir="/usr/lib/postgresql/15/bin")
        server.start()
    except (FileNotFoundError, ModuleNotFoundError) as error:
        pytest.skip(f"no PostgreSQL of the system: {error}")
    certificate = ThrowawayCertificate()
    try:
        with server.connect(autocommit=True) as conn:
            files = {"ssl_cert_file": certificate.certificate_file, "ssl_key_file": certificate.key_file}
            for setting, file in files.items():
                target = server.folder / f"{setting}.pem"
                target.touch(mode=0o600)
                target.write_bytes(Path(file).read_bytes())
                server._account.own(target)
                conn.execute(f"ALTER SYSTEM SET {setting} = '{target}'")
            conn.execute("ALTER SYSTEM SET ssl = on")
            conn.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        certificate.close()
        server.stop()


@pytest.fixture(scope="module", params=["disable", "require"], ids=["plain", "tls"])
def server(request, postgres):
    """A server and the sslmode for it; it runs before `no_leaks` looks."""
    return postgres if request.param == "disable" else request.getfixturevalue("tls_postgres"), request.param


@pytest.fixture
def held_pool(server):
    """A pool of two connections without Vault, over plain TCP or over TLS."""
    postgres, mode = server
    database = Database(postgres)
    login = database.create_login()
    conninfo = database.conninfo(user=login.user, password=login.password, sslmode=mode)
    with HotSwapPool(conninfo, min_size=2, open=False) as pool:
        pool.wait()
        with pool.connection() as conn:
            assert conn.pgconn.ssl_in_use == (mode == "require")
        yield pool
    database.drop()


def leave(pool, checkout, conn, raw):
    with pytest.raises(PoolError, match="forked inside of a transaction"):
        checkout.__exit__(None, None, None)


def leave_by_an_error(pool, checkout, conn, raw):
    error = ValueError()
    assert not checkout.__exit__(ValueError, error, None)


def use(pool, checkout, conn, raw):
    for attempt in (conn.commit, conn.rollback, lambda: conn.execute("SELECT 1"), conn.cursor):
        with pytest.raises(psycopg.OperationalError, match="closed"):
            attempt()
    conn.cancel_safe()
    assert conn.closed


def give_back(pool, checkout, conn, raw):
    pool.putconn(conn)


def close(pool, checkout, conn, raw):
    conn.close()
    pool.close()


def forget(pool, checkout, conn, raw):
    del pool, checkout, conn, raw
    gc.collect()


def finish(pool, checkout, conn, raw):
    for each in raw:
        each.exec_(b"COMMIT")
        each.finish()


def end(pool, checkout, conn, raw):
    os._exit(0)


def die(pool, checkout, conn, raw):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "act", [leave, leave_by_an_error, use, give_back, close, forget, finish], ids=lambda act: act.__name__
)
def test_what_a_child_does_to_a_transaction_is_not_done(held_pool, act):
    """A child that is forked inside a transaction does its worst; the parent commits what it wrote."""
    with held_pool.connection() as conn:
        conn.execute("INSERT INTO items (id, name) VALUES (77, 'parent')")
        checkout = held_pool.connection()
        other = checkout.__enter__()
        other.execute("INSERT INTO items (id, name) VALUES (78, 'parent')")
        in_child(partial(act, held_pool, checkout, other, [conn.pgconn, other.pgconn]))
        checkout.__exit__(None, None, None)
    with held_pool.connection() as conn:
        assert conn.execute("SELECT count(*) FROM items WHERE name = 'parent'").fetchone() == (2,)


@pytest.mark.parametrize("act", [end, die], ids=lambda act: act.__name__)
def test_a_child_that_ends_inside_a_transaction_ends_alone(held_pool, act):
    """Its exit and its death close no session."""
    with held_pool.connection() as conn:
        conn.execute("INSERT INTO items (id, name) VALUES (77, 'parent')")
        child = Child(lambda: act(None, None, None, None))
        child.end()
    with held_pool.connection() as conn:
        assert conn.execute("SELECT name FROM items WHERE id = 77").fetchone() == ("parent",)


def test_a_connection_without_a_transaction_is_left_in_silence(held_pool):
    """Nothing is lost where nothing was begun."""
    checkout = held_pool.connection()
    checkout.__enter__()
    in_child(lambda: checkout.__exit__(None, None, None))
    checkout.__exit__(None, None, None)


# --- Pools without Vault -----------------------------------------------------------------------------------


def test_a_pool_without_vault_opens_anew(no_leaks, held_pool):
    """By the arguments that it was made with, its later changes included."""
    held_pool.resize(1, 3)
    mine = who(held_pool)[1]
    theirs, size, name = in_child(lambda: (who(held_pool)[1], held_pool.max_size, held_pool.name))

    assert theirs != mine
    assert (size, name) == (3, held_pool.name)
    assert who(held_pool)[1]


def test_a_ready_pool_cannot_be_made_again(database):
    """The error says what to do; and that works."""
    login = database.create_login()
    conninfo = database.conninfo(user=login.user, password=login.password)
    with HotSwapPool(ConnectionPool(conninfo, min_size=1, open=True)) as pool:
        mine = who(pool)[1]

        def work():
            with pytest.raises(PoolError, match=r"replace\(\)"):
                pool.getconn(timeout=1)
            pool.replace(ConnectionPool(conninfo, min_size=1, open=False))
            return who(pool)[1]

        assert in_child(work) != mine
        assert who(pool)[1] == mine


def test_a_ready_pool_that_replaced_another_cannot_be_made_again(no_leaks, database):
    """The holder knows what the first pool was made of: the child must not connect there again."""
    login = database.create_login()
    conninfo = database.conninfo(user=login.user, password=login.password)
    with HotSwapPool(conninfo, min_size=1) as pool:
        pool.replace(ConnectionPool(conninfo, min_size=1, open=False))

        def use():
            try:
                pool.getconn()
            except PoolError as error:
                return str(error)

        assert "made by the application" in in_child(use)


def test_a_pool_that_nobody_opened_can_be_opened_in_the_child(database):
    """Built before the fork, opened after it, as psycopg's documentation recommends."""
    login = database.create_login()
    conninfo = database.conninfo(user=login.user, password=login.password)
    pools = [HotSwapPool(conninfo, open=False), HotSwapPool(ConnectionPool(conninfo, open=False))]

    def work():
        found = []
        for pool in pools:
            with pytest.raises(PoolClosed):
                pool.getconn(timeout=1)
            with pool:
                found.append(bool(who(pool)))
        return found

    assert in_child(work) == [True, True]


def test_greenlets_are_refused_an_inherited_pool(held_pool, monkeypatch):
    """They live on in a child, unlike threads. Where gevent has not replaced threading, it is of no importance."""

    def gevent(*, patched):
        monkeypatch.setitem(
            sys.modules,
            "gevent.monkey",
            SimpleNamespace(is_module_patched=lambda name: patched and name == "threading"),
        )

    def work():
        with pytest.raises(PoolError, match="open it after the fork"):
            held_pool.getconn(timeout=1)
        gevent(patched=False)
        return bool(who(held_pool))

    gevent(patched=True)
    assert in_child(work)
    assert who(held_pool)


# --- Beside it ---------------------------------------------------------------------------------------------


def test_a_connect_that_is_on_its_way_is_the_parents_too(database, tcp_proxy):
    """A worker waits for the server inside of libpq, and no object has its socket yet."""
    login = database.create_login()
    proxy = tcp_proxy(database.server.host, database.server.port)
    conninfo = database.conninfo(user=login.user, password=login.password, port=proxy.port)
    with HotSwapPool(conninfo, min_size=1, max_size=2, open=False) as pool:
        pool.wait()
        with pool.connection():
            proxy.deaf()
            threading.Thread(target=lambda: who(pool), daemon=True).start()
            until(lambda: forking._connecting)
            connecting = {f"socket:[{inode}]" for _, inode in forking._connecting.values()}
            assert connecting < sockets()
            shared = in_child(lambda: list(sockets() & connecting))
            proxy.pass_through()

        assert shared == []
        until(lambda: pool.get_stats()["pool_available"] == 2)
        assert not forking._connecting


def test_programs_are_started_as_ever(held_pool):
    """fork and exec at once: with hooks (preexec_fn) and without."""
    with held_pool.connection() as conn:
        conn.execute("INSERT INTO items (id, name) VALUES (77, 'parent')")
        for options in ({}, {"preexec_fn": lambda: None}, {"close_fds": False}):
            done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True, **options)
            assert done.stdout == b"1\n"
    assert who(held_pool)


def test_a_pool_cannot_be_pickled(held_pool):
    """Neither for another process (multiprocessing's spawn and forkserver) nor for a copy: the error says why."""
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copying(held_pool)
