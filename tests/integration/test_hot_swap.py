"""
HotSwapPool as a drop-in: what psycopg_pool's pool does, across a swap.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter

import psycopg
import pytest
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from vault_pool import HotSwapPool


@pytest.fixture
def conninfo(database):
    login = database.create_login()
    return database.conninfo(user=login.user, password=login.password)


def successor(conninfo, **options):
    """Return a pool that is not open yet."""
    return ConnectionPool(conninfo, **{"min_size": 1, "max_size": 1, "open": False, **options})


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def in_thread(target):
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_it_opens_and_closes_once(no_leaks, conninfo):
    """Opening an open pool is nothing, closing a closed one too; a closed pool cannot be reopened."""
    pool = HotSwapPool(conninfo, min_size=1, open=False)
    assert pool.closed
    with pytest.raises(PoolClosed, match="not open yet"):
        pool.getconn()
    pool.close()
    with pool:
        pool.open()
        pool.wait()
        assert not pool.closed
        with psycopg.connect(conninfo) as foreign, pytest.raises(ValueError, match="doesn't come from any pool"):
            pool.putconn(foreign)
    pool.close()

    assert pool.closed
    with pytest.raises(PoolClosed, match="cannot be reused"):
        pool.open()


def test_a_pool_that_fills_up_too_late_is_closed(no_leaks, database):
    """wait() raises PoolTimeout and closes the pool, as psycopg_pool's does."""
    pool = HotSwapPool(database.conninfo(user="nobody_at_all", password="x"), min_size=1, open=True)
    with pytest.raises(PoolTimeout):
        pool.wait(timeout=0.2)

    assert pool.closed


@pytest.mark.parametrize("begin", [lambda pool: pool.wait(10), lambda pool: pool.open(wait=True, timeout=10)])
def test_who_waits_for_a_pool_that_is_replaced_waits_no_longer(no_leaks, database, conninfo, begin):
    """Its successor was full when it came, and is not closed because the other one never was."""
    pool = HotSwapPool(database.conninfo(user="nobody_at_all", password="x"), min_size=1, open=True)
    waiting = in_thread(lambda: begin(pool))
    until(lambda: pool._pool_full_event)
    began = time.monotonic()
    pool.replace(successor(conninfo))
    waiting.join(10)

    assert time.monotonic() - began < 5
    with pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    pool.close()


def test_who_waits_for_a_pool_that_is_closed_hears_of_it(no_leaks, database):
    """At once, not when the time is up."""
    pool = HotSwapPool(database.conninfo(user="nobody_at_all", password="x"), min_size=1, open=True)
    caught = []

    def wait():
        try:
            pool.wait(30)
        except PoolClosed as error:
            caught.append(error)

    waiting = in_thread(wait)
    until(lambda: pool._pool_full_event)
    pool.close()
    waiting.join(10)

    assert caught


def test_broken_connections_that_come_back_are_let_go(no_leaks, conninfo, database):
    """Also with reset=, which psycopg_pool does not call for them."""
    with HotSwapPool(conninfo, min_size=1, reset=lambda conn: None) as pool:
        with pytest.raises(psycopg.OperationalError), pool.connection() as conn:
            database.superuser_execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
            conn.execute("SELECT 1")
        until(lambda: pool.get_stats()["pool_available"] == 1)
        assert not pool._current.resetting


def test_the_timeout_is_the_callers_or_the_pools(no_leaks, conninfo):
    """A checkout fails after its own timeout, by default after that of the pool; zero never waits."""
    with HotSwapPool(conninfo, min_size=1, timeout=0.1) as pool:
        pool.wait()
        with pytest.raises(PoolTimeout, match=r"0\.00 sec"):
            pool.getconn(timeout=0)
        with pool.connection():
            with pytest.raises(PoolTimeout, match=r"0\.10 sec"):
                pool.getconn()
            with pytest.raises(PoolTimeout, match=r"0\.05 sec"), pool.connection(timeout=0.05):
                pass


def test_callbacks_and_the_connection_class_are_the_applications(no_leaks, conninfo):
    """configure, check and reset get instances of the class that was asked for."""
    called = Counter()

    class Mine(psycopg.Connection):
        pass

    def note(word):
        def callback(conn):
            assert isinstance(conn, Mine)
            called[word] += 1

        return callback

    callbacks = {word: note(word) for word in ("configure", "check", "reset")}
    with HotSwapPool(conninfo, min_size=1, connection_class=Mine, **callbacks) as pool:
        with pool.connection() as conn:
            assert isinstance(conn, Mine)
            assert type(conn).__name__ == "Mine"
        until(lambda: called["reset"] == 1)
        assert pool.connection_class is Mine

    assert called == {"configure": 1, "check": 1, "reset": 1}


@pytest.mark.parametrize("foreign", [False, True], ids=["built", "foreign"])
def test_the_end_of_a_use_is_the_connections_own(no_leaks, conninfo, foreign):
    """A class that does something of its own then is not passed over, not even when there is nothing to commit."""
    called = Counter()

    class Mine(psycopg.Connection):
        def commit(self):
            called["commit"] += 1
            super().commit()

    class Yours(psycopg.Connection):
        def __exit__(self, *error):
            called["exit"] += 1
            super().__exit__(*error)

    for connection_class in (Mine, Yours):
        options = {"min_size": 1, "connection_class": connection_class, "open": False}
        pool = HotSwapPool(ConnectionPool(conninfo, **options)) if foreign else HotSwapPool(conninfo, **options)
        with pool, pool.connection():
            pass
    assert called == {"commit": 1, "exit": 1}


def test_an_error_in_the_body_rolls_back_and_returns_the_connection(no_leaks, conninfo):
    """It is raised as it is, also after a swap."""
    with HotSwapPool(conninfo, min_size=1) as pool:
        for swap in (False, True):
            with pytest.raises(ZeroDivisionError), pool.connection() as conn:
                conn.execute("INSERT INTO items (name) VALUES ('gone')")
                if swap:
                    pool.replace(successor(conninfo))
                raise ZeroDivisionError
        with pool.connection() as conn:
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (1,)


def test_maintenance_reaches_the_current_pool(no_leaks, conninfo, database):
    """resize() grows it, drain() renews its connections, check() replaces broken ones; so does it after a swap."""
    with HotSwapPool(conninfo, min_size=1, max_size=1) as pool:
        for swap in (False, True):
            if swap:
                pool.replace(successor(conninfo))
            pool.wait()
            pool.resize(2, 2)
            assert (pool.min_size, pool.max_size) == (2, 2)
            until(lambda: pool.get_stats()["pool_available"] == 2)
            before = {session.pid for session in database.sessions()}
            pool.drain()
            until(lambda: pool.get_stats()["pool_available"] == 2)
            until(lambda before=before: not before & {session.pid for session in database.sessions()})
            database.terminate()
            until(lambda: not database.sessions())
            pool.check()
            until(lambda: len(database.sessions()) == pool.get_stats()["pool_available"] == 2)


def test_counters_go_on_across_swaps(no_leaks, conninfo):
    """get_stats() counts since the start, pop_stats() since the last one; measures are the current pool's."""
    with HotSwapPool(conninfo, min_size=1, max_size=1) as pool:
        for _ in range(3):
            for _ in range(5):
                with pool.connection() as conn:
                    conn.execute("SELECT 1")
            pool.replace(successor(conninfo))
        until(lambda: not pool._reaper.retiring())
        stats = pool.get_stats()
        assert (stats["requests_num"], stats["connections_num"]) == (15, 4)
        assert stats["pool_size"] == stats["pool_available"] == 1
        assert pool.pop_stats()["requests_num"] == 15
        assert "requests_num" not in pool.get_stats()


def test_a_pool_that_is_handed_back_counts_while_it_was_ours(no_leaks, conninfo):
    """Neither do the counters fall when it goes, nor does what it did elsewhere count when it comes back."""

    def use(pool, times):
        for _ in range(times):
            with pool.connection() as conn:
                conn.execute("SELECT 1")

    with HotSwapPool(conninfo, min_size=1, max_size=1) as pool:
        use(pool, 3)
        old = pool.replace(successor(conninfo), retire=False)
        assert pool.get_stats()["requests_num"] == 3
        use(old, 10)
        use(pool, 2)
        assert pool.get_stats()["requests_num"] == 5
        pool.replace(old)
        assert pool.get_stats()["requests_num"] == 5
        use(pool, 1)
        until(lambda: not pool._reaper.retiring())
        assert pool.get_stats()["requests_num"] == 6
        assert pool.pop_stats()["requests_num"] == 6
        assert "requests_num" not in pool.get_stats()


def test_counters_never_fall(no_leaks, conninfo):
    """A dip, however short, would be a restart to whoever computes rates of them."""
    falls, stop = [], threading.Event()
    with HotSwapPool(conninfo, min_size=1, max_size=1) as pool:
        pool.wait()

        def watch():
            last = 0
            while not stop.is_set():
                now = pool.get_stats().get("connections_num", 0)
                if now < last:
                    falls.append((last, now))
                last = now

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            thread = in_thread(watch)
            for _ in range(30):
                pool.replace(successor(conninfo))
            until(lambda: not pool._reaper.retiring())
            stop.set()
            thread.join(10)
        finally:
            sys.setswitchinterval(interval)

    assert not falls


def test_closing_fails_a_client_between_the_check_and_the_queue(conninfo):
    """It would queue on a closed pool, where nobody comes, until its timeout."""
    passed, go_on = threading.Event(), threading.Event()
    caught = []

    class Gated(ConnectionPool):
        def _check_open_getconn(self):
            super()._check_open_getconn()
            if threading.current_thread() is not threading.main_thread():
                passed.set()
                assert go_on.wait(10)

    pool = HotSwapPool(Gated(conninfo, min_size=1, max_size=1, open=True))
    pool.wait()

    def client():
        began = time.monotonic()
        with pytest.raises(PoolClosed):
            pool.getconn(timeout=5.0)
        caught.append(time.monotonic() - began)

    with pool.connection():
        thread = in_thread(client)
        assert passed.wait(10)
        pool.close()
        go_on.set()
        thread.join(10)

    assert caught
    assert caught[0] < 3


def test_no_worker_waits_for_room(no_leaks, conninfo, database, caplog):
    """A connection that is to be replaced in a pool that was made smaller waits, and its only worker does not."""
    pool = HotSwapPool(conninfo, min_size=3, max_size=3, num_workers=1, reset=lambda conn: None, open=True)
    pool.wait()
    pool.resize(1, 1)
    broken, *others = [pool.getconn() for _ in range(3)]
    database.superuser_execute("SELECT pg_terminate_backend(%s)", [broken.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        broken.execute("SELECT 1")
    pool.putconn(broken)
    until(lambda: pool._sched._queue)
    pool.putconn(others.pop())
    others.append(pool.getconn(timeout=5))
    began = time.monotonic()
    pool.close()
    for conn in others:
        pool.putconn(conn)

    assert time.monotonic() - began < 2
    assert "couldn't stop thread" not in caplog.text
