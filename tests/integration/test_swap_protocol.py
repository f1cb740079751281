"""
The swap protocol of HotSwapPool, race by race.
"""

from __future__ import annotations

import threading
import time

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from vault_pool import HotSwapPool
from vault_pool.runtime.hot_swap.generation import GenerationPool


@pytest.fixture
def conninfo(database):
    login = database.create_login()
    return database.conninfo(user=login.user, password=login.password)


@pytest.fixture(params=["built", "foreign"])
def make(request, conninfo):
    """Return a function that makes an open holder: of a pool that it builds, or of one that the application built."""

    def build(**options):
        options = {"min_size": 1, "max_size": 1, "timeout": 10.0, "open": False, **options}
        pool = HotSwapPool(conninfo, **options)
        if request.param == "foreign":
            pool = HotSwapPool(ConnectionPool(conninfo, **options))
        pool.open(wait=True, timeout=10)
        return pool

    return build


def successor(conninfo, **options):
    """Return a pool that is not open yet."""
    return ConnectionPool(conninfo, **{"min_size": 1, "max_size": 1, "open": False, **options})


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def pid(conn):
    return conn.info.backend_pid


class Client(threading.Thread):
    """A client that checks out in a thread of its own, and keeps what it got until it is let go."""

    def __init__(self, pool, timeout=None):
        super().__init__(daemon=True)
        self.pool, self.timeout = pool, timeout
        self.conn = self.error = None
        self.done, self.release = threading.Event(), threading.Event()
        self.start()

    def run(self):
        try:
            with self.pool.connection(self.timeout) as self.conn:
                self.done.set()
                self.release.wait(30)
        except psycopg.Error as error:
            self.error = error
        finally:
            self.done.set()

    def finish(self):
        self.release.set()
        self.join(10)
        assert not self.is_alive()


def test_who_queues_is_served_by_the_successor_at_once(no_leaks, make, conninfo, database):
    """A client behind a slow holder does not wait for it: it goes on to the new pool."""
    pool = make()
    holder = Client(pool)
    assert holder.done.wait(10)
    queued = [Client(pool) for _ in range(3)]
    until(lambda: pool.get_stats().get("requests_waiting") == 3)
    began = time.monotonic()
    old = pool.replace(successor(conninfo, min_size=3, max_size=3))
    for client in queued:
        assert client.done.wait(5)

    assert time.monotonic() - began < 2
    assert [client.error for client in queued] == [None] * 3
    assert holder.conn.execute("SELECT 1").fetchone() == (1,)
    assert old.closed
    for client in (holder, *queued):
        client.finish()
    stats = pool.get_stats()
    assert (stats["requests_num"], stats.get("requests_errors", 0)) == (4, 0)
    pool.close()
    until(lambda: not [s for s in database.sessions() if s.user != database.admin.user])


def test_a_client_between_the_check_and_the_queue_is_not_lost(conninfo):
    """It has passed the check of `closed` when the pool is retired, and would queue on a dead pool."""
    passed, go_on = threading.Event(), threading.Event()

    class Gated(ConnectionPool):
        armed = False

        def _check_open_getconn(self):
            super()._check_open_getconn()
            if self.armed and threading.current_thread() is not threading.main_thread():
                passed.set()
                assert go_on.wait(10)

    first = Gated(conninfo, min_size=1, max_size=1, open=True)
    pool = HotSwapPool(first)
    pool.wait()
    holder = Client(pool)
    assert holder.done.wait(10)
    first.armed = True
    late = Client(pool, timeout=5.0)
    assert passed.wait(10)
    pool.replace(successor(conninfo))
    until(lambda: first.closed)
    go_on.set()
    assert late.done.wait(3)

    assert late.error is None
    holder.finish()
    late.finish()
    pool.close()


@pytest.mark.parametrize("way", ["holder", "pool", "connection", "close"])
def test_a_connection_comes_back_by_any_way_after_the_swap(no_leaks, make, conninfo, way):
    """It commits, goes to the pool that lent it, and is closed there."""
    pool = make(close_returns=way == "close")
    if way == "connection":
        with pool.connection() as conn:
            old = pool.replace(successor(conninfo))
            conn.execute("CREATE TEMP TABLE kept (x int)")
    else:
        conn = pool.getconn()
        old = pool.replace(successor(conninfo))
        conn.execute("SELECT 1")
        conn.commit()
        {"holder": lambda: pool.putconn(conn), "pool": lambda: old.putconn(conn), "close": conn.close}[way]()

    until(lambda: conn.closed)
    until(lambda: not pool._reaper.retiring())
    pool.close()


def test_what_was_written_before_the_swap_is_committed(make, conninfo, database):
    """A transaction that is open during the swap ends like any other."""
    database.execute("CREATE TABLE kept (x int)")
    database.execute("GRANT ALL ON kept TO PUBLIC")
    pool = make()
    with pool.connection() as conn:
        conn.execute("INSERT INTO kept VALUES (1)")
        pool.replace(successor(conninfo))
        conn.execute("INSERT INTO kept VALUES (2)")
    with pool.connection() as conn:
        assert conn.execute("SELECT count(*) FROM kept").fetchone() == (2,)
    pool.close()


def test_a_return_that_is_interrupted_is_a_return(no_leaks, conninfo, monkeypatch):
    """Where its last statement failed as those of a lost role do, a session is asked before."""
    with HotSwapPool(conninfo, min_size=1, max_size=1) as pool:
        conn = pool.getconn()
        conn._suspect = True

        def interrupted(conn):
            raise KeyboardInterrupt

        monkeypatch.setattr(pool._current, "look_at", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.putconn(conn)
        with pool.connection(timeout=5) as again:
            assert again is conn
            conn._suspect = False


def test_a_second_return_is_refused(make):
    """By whichever way: the connection may be somebody else's by then."""
    pool = make()
    conn = pool.getconn()
    pool.putconn(conn)
    with pytest.raises(ValueError, match="can't return connection"):
        pool.putconn(conn)
    pool.close()


def test_a_connection_of_another_pool_is_refused(make, conninfo):
    """The text is psycopg_pool's."""
    pool, other = make(), make()
    conn = other.getconn()
    with pytest.raises(ValueError, match=f"comes from pool '{other.name}'"):
        pool.putconn(conn)
    other.putconn(conn)
    pool.close()
    other.close()


def test_a_broken_connection_gives_its_slot_back_once(no_leaks, conninfo, database):
    """close(), putconn() and the end of connection() after the server ended the session: one slot, not two."""
    pool = HotSwapPool(conninfo, min_size=1, max_size=1, close_returns=True, open=True)
    pool.wait()
    for way in ("close", "putconn", "both", "connection"):
        if way == "connection":
            with pytest.raises(psycopg.OperationalError), pool.connection() as conn:
                database.terminate(conn.info.user)
                conn.execute("SELECT 1")
        else:
            conn = pool.getconn()
            database.terminate(conn.info.user)
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT 1")
            if way in ("close", "both"):
                conn.close()
            if way == "putconn":
                pool.putconn(conn)
            if way == "both":
                conn.close()
                with pytest.raises(ValueError, match="can't return"):
                    pool.putconn(conn)
        with pool.connection(timeout=10) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        assert pool.get_stats()["pool_size"] == 1
    pool.close()


def test_a_body_that_returns_its_connection_by_itself_harms_nobody(conninfo):
    """With close_returns, the end of connection() must not return what is the next client's by then."""
    pool = HotSwapPool(conninfo, min_size=1, max_size=1, close_returns=True, open=True)
    with pool.connection() as conn:
        conn.close()
        other = Client(pool)
        assert other.done.wait(10)
        other.conn.execute("SELECT 1")
    assert other.conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    other.finish()
    assert other.error is None
    pool.close()


def test_a_pool_that_cannot_open_leaves_the_current_one(no_leaks, make, database):
    """Its clients do not notice."""
    pool = make()
    number = pool._current.number
    with pytest.raises(PoolTimeout):
        pool.replace(successor(database.conninfo(user="nobody_at_all", password="x")), timeout=0.3)

    assert number == pool._current.number
    with pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    pool.close()


def test_without_retire_the_old_pool_is_handed_back_untouched(no_leaks, make, conninfo):
    """It serves whoever has it, also connections that the holder lent; it can come back."""
    pool = make()
    conn = pool.getconn()
    old = pool.replace(successor(conninfo), retire=False)
    pool.putconn(conn)
    with old.connection() as again:
        assert pid(again) == pid(conn)
    successor_ = pool.replace(old)

    with pool.connection() as again:
        assert pid(again) == pid(conn)
    until(lambda: successor_.closed)
    pool.close()


def test_the_current_pool_cannot_replace_itself(make):
    """It would be closed under its clients."""
    pool = make()
    with pytest.raises(ValueError, match="already the current one"):
        pool.replace(pool._current.pool)
    pool.close()


def test_a_pool_that_is_retiring_cannot_come_back(make, conninfo):
    """It will be closed; until then it looks like an open one."""
    pool = make()
    with pool.connection():
        old = pool.replace(successor(conninfo))
        with pytest.raises(ValueError, match="is retiring"):
            pool.replace(old)
    with pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    pool.close()


def test_only_a_pool_replaces_a_pool(make, conninfo):
    """A holder's connections belong to the pool in it, and those of an asynchronous one to an event loop."""
    pool = make()
    with HotSwapPool(conninfo, min_size=1) as other, pytest.raises(TypeError, match="not HotSwapPool"):
        pool.replace(other)
    with pytest.raises(TypeError, match="not AsyncConnectionPool"):
        pool.replace(AsyncConnectionPool(conninfo, open=False))
    pool.close()


def test_a_pool_that_raises_when_it_is_closed_ends_no_reaper(no_leaks, conninfo, caplog):
    """Connection classes are the application's: what retires after it finishes, and clients are sent on."""

    class Fragile(psycopg.Connection):
        def close(self):
            super().close()
            raise ZeroDivisionError("bug")

    pool = HotSwapPool(successor(conninfo, connection_class=Fragile))
    pool.open(wait=True)
    pool.replace(successor(conninfo))
    until(lambda: "could not be closed" in caplog.text)
    second = pool._current.pool
    pool.replace(successor(conninfo))
    until(lambda: second.closed)
    pool.close()
    caplog.clear()


def test_the_error_names_the_whole_timeout(make, conninfo):
    """A client that moved on and was not served either hears of its own timeout, not of what was left of it."""
    pool = make()
    first = Client(pool)
    assert first.done.wait(10)
    moved = Client(pool, timeout=1.0)
    until(lambda: pool.get_stats().get("requests_waiting") == 1)
    second_pool = successor(conninfo)
    second_pool.open(wait=True)
    conn = second_pool.getconn()
    pool.replace(second_pool)
    assert moved.done.wait(5)

    assert "after 1.00 sec" in str(moved.error)
    assert pool.get_stats()["requests_errors"] == 1
    second_pool.putconn(conn)
    first.finish()
    pool.close()


def test_the_limit_of_waiting_clients_is_not_for_those_who_moved(make, conninfo):
    """max_waiting holds for new clients and never against one that another generation has sent on."""
    pool = make(max_waiting=2)
    holder = Client(pool)
    assert holder.done.wait(10)
    queued = [Client(pool) for _ in range(2)]
    until(lambda: pool.get_stats().get("requests_waiting") == 2)
    with pytest.raises(TooManyRequests):
        pool.getconn()
    second_pool = successor(conninfo, max_waiting=1)
    second_pool.open(wait=True)
    conn = second_pool.getconn()
    pool.replace(second_pool)
    until(lambda: pool.get_stats().get("requests_waiting") == 2)
    new = Client(pool)
    until(lambda: pool.get_stats().get("requests_waiting") == 3)
    with pytest.raises(TooManyRequests):
        pool.getconn()
    assert pool.max_waiting == 1
    pool.max_waiting = 2
    assert pool.max_waiting == 2
    another = Client(pool)
    until(lambda: pool.get_stats().get("requests_waiting") == 4)
    with pytest.raises(TooManyRequests):
        pool.getconn()
    second_pool.putconn(conn)
    for client in (*queued, new, another):
        client.release.set()
    for client in (*queued, new, another, holder):
        client.finish()

    assert [client.error for client in (*queued, new, another)] == [None] * 4
    assert second_pool.max_waiting == 2
    pool.close()
    assert pool.max_waiting == 2


def test_who_still_holds_a_connection_is_named(conninfo, caplog):
    """After retire_timeout, once."""
    pool = HotSwapPool(conninfo, min_size=1, open=True, retire_timeout=0.05)
    pool.wait()
    holder = Client(pool)
    holder.name = "slow-client"
    assert holder.done.wait(10)
    pool.replace(successor(conninfo))
    until(lambda: "slow-client" in caplog.text)
    holder.finish()
    until(lambda: not pool._reaper.retiring())

    assert caplog.text.count("past its retire timeout") == 1
    pool.close()


def test_a_return_that_the_closing_pool_would_forget_is_closed(conninfo):
    """With reset= a return is a task; a pool that closes drops the task, and the session would stay."""
    reset, go_on = threading.Event(), threading.Event()

    def slow_reset(conn):
        reset.set()
        go_on.wait(10)

    pool = HotSwapPool(conninfo, min_size=2, max_size=2, num_workers=1, reset=slow_reset, open=True)
    pool.wait()
    first, second = pool.getconn(), pool.getconn()
    pool.putconn(first)
    assert reset.wait(10)
    pool.putconn(second)
    pool.replace(successor(conninfo))
    until(lambda: second.closed)
    go_on.set()
    until(lambda: first.closed)
    until(lambda: not pool._reaper.retiring())
    pool.close()


def test_the_reaper_may_pass_by_while_a_connection_comes_back(conninfo, monkeypatch):
    """What a closing pool forgot is closed, but not what psycopg_pool is just being given: it would raise."""
    pool = HotSwapPool(conninfo, min_size=1, max_size=1, reset=lambda conn: None, open=True)
    with pool.connection() as conn:
        generation = conn._generation
        check = generation.pool._check_pool_putconn

        def pass_by(returned):
            generation.reclaim()
            check(returned)

        monkeypatch.setattr(generation.pool, "_check_pool_putconn", pass_by)
    pool.wait()
    assert pool.get_stats().get("returns_bad", 0) == 0
    pool.close()


def test_swapping_from_a_worker_of_the_pool_works(conninfo):
    """A pool cannot close itself from its own worker: the reaper does."""
    swapped = threading.Event()

    def reconnect_failed(_):
        pool.replace(successor(conninfo))
        swapped.set()

    pool = HotSwapPool(
        conninfo + " options=-cnonsense=1",
        min_size=1,
        open=True,
        reconnect_timeout=0.01,
        reconnect_failed=reconnect_failed,
    )
    assert swapped.wait(20)
    with pool.connection(timeout=10) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    pool.close()


def test_a_closed_holder_refuses_everybody(make, conninfo):
    """Those who queue as well; a pool that comes too late is closed again."""
    pool = make()
    holder = Client(pool)
    assert holder.done.wait(10)
    queued = Client(pool)
    until(lambda: pool.get_stats().get("requests_waiting") == 1)
    pool.close()
    assert queued.done.wait(5)

    assert isinstance(queued.error, PoolClosed)
    with pytest.raises(PoolClosed):
        pool.getconn()
    late = successor(conninfo)
    with pytest.raises(PoolClosed):
        pool.replace(late)
    assert late.closed
    holder.finish()
    pool.close()


def test_a_dropped_holder_leaves_no_thread(no_leaks, conninfo):
    """Its reaper's thread ends with it."""
    current = swapped_and_dropped(conninfo)
    current.close()


def swapped_and_dropped(conninfo):
    """Return the pool that a holder was left with."""
    pool = HotSwapPool(conninfo, min_size=1, open=True)
    pool.wait()
    pool.replace(successor(conninfo))
    until(lambda: not pool._reaper.retiring())
    return pool._current.pool


def test_generations_never_exceed_the_budget(no_leaks, database):
    """Slow clients hold every old connection; the new generation opens with the overlap and grows as room appears."""
    from vault_pool.core.lease import Credential

    login = database.create_login()
    pool = HotSwapPool(
        database.conninfo(user=login.user, password=login.password), min_size=2, max_size=4, overlap=2, open=True
    )
    pool.wait()
    peak = []

    def sessions():
        peak.append(len(database.sessions(login.user)))
        return peak[-1]

    holders = [Client(pool) for _ in range(4)]
    for client in holders:
        assert client.done.wait(10)
    blueprint = pool._blueprint.changed("conninfo", database.conninfo())
    credential = Credential(login.user, login.password)
    fresh = blueprint.build(2, pool._budget, credential=credential)
    fresh.opening = True
    fresh.prove(blueprint.maker(credential), login.user)
    fresh.open(10.0)
    pool._replace(fresh)
    more = [Client(pool) for _ in range(4)]
    until(lambda: sessions() == 6 and sum(client.done.is_set() for client in more) == 2)
    for number, client in enumerate(holders):
        client.finish()
        if number >= 2:
            served = number + 1
            until(lambda served=served: sessions() <= 6 and sum(c.done.is_set() for c in more) == served)
    for client in more:
        client.finish()

    assert max(peak) <= 6
    assert isinstance(fresh.pool, GenerationPool)
    assert all(client.error is None for client in (*holders, *more))
    pool.close()
