"""
Clients without number meet swaps without number: nobody is lost, nobody sees an error.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from vault_pool import HotSwapPool
from vault_pool.core.lease import Credential

#: How many times the bounded number of swaps: for a longer run by hand.
SCALE = float(os.environ.get("VAULT_POOL_TEST_SCALE", "1"))
CLIENTS, SIZE, TIMEOUT = 5, 2, 5.0


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


class Holder:
    """A holder and the way to its next generation: as a VaultPool does it ("built"), or by `replace`."""

    def __init__(self, database, kind, **options):
        self.login = database.create_login()
        self.database = database
        self.options = {"min_size": SIZE, "timeout": TIMEOUT, "open": False, **options}
        self.conninfo = database.conninfo(user=self.login.user, password=self.login.password)
        self.pool = HotSwapPool(self.conninfo, **self.options) if kind == "built" else HotSwapPool(self.stock())
        self.swap = self.swap_built if kind == "built" else lambda: self.pool.replace(self.stock())
        self.pool.open(wait=True)

    def stock(self):
        return ConnectionPool(self.conninfo, **self.options)

    def swap_built(self):
        pool = self.pool
        blueprint = pool._blueprint.changed("conninfo", self.database.conninfo())
        credential = Credential(self.login.user, self.login.password)
        fresh = blueprint.build(0, pool._budget, credential=credential)
        fresh.opening = True
        fresh.prove(blueprint.maker(credential), credential.user)
        fresh.open(10.0)
        pool._replace(fresh)


@pytest.fixture
def often():
    """Threads take turns 500 times as often as usual, so that races happen."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("kind", "swaps", "options"),
    [
        ("built", 100, {}),
        ("stock", 150, {}),
        ("stock", 75, {"check": ConnectionPool.check_connection}),
        ("built", 75, {"max_waiting": CLIENTS - SIZE}),
        ("built", 75, {"reset": lambda conn: None}),
    ],
    ids=["built", "stock", "check", "max_waiting", "reset"],
)
def test_no_client_is_lost(no_leaks, database, often, kind, swaps, options):
    """More clients than connections, and swap after swap: none waits for its timeout, none hears of a swap."""
    holder = Holder(database, kind, **options)
    errors, longest, stop = Counter(), [0.0] * CLIENTS, threading.Event()

    def client(number):
        while not stop.is_set():
            began = time.monotonic()
            try:
                with holder.pool.connection():
                    pass
            except psycopg.Error as error:
                errors[repr(error)] += 1
            longest[number] = max(longest[number], time.monotonic() - began)

    threads = [threading.Thread(target=client, args=[number], daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(round(swaps * SCALE)):
            holder.swap()
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT + 5)
    until(lambda: not holder.pool._reaper.retiring())
    requests = holder.pool.get_stats()
    holder.pool.close()

    assert not errors
    assert max(longest) < TIMEOUT / 2
    assert not [thread for thread in threads if thread.is_alive()]
    assert requests["requests_num"] > swaps
    assert requests.get("requests_errors", 0) == 0


def test_a_saturated_pool_hands_its_queue_over_at_once(no_leaks, database, tcp_proxy):
    """Every connection is out for 3 s and a worker hangs in a connect: those who queue are served in 100 ms."""
    login = database.create_login()
    conninfo = database.conninfo(user=login.user, password=login.password)
    proxy = tcp_proxy(database.server.host, database.server.port)
    pool = HotSwapPool(
        ConnectionPool(f"{conninfo} port={proxy.port} sslmode=disable", min_size=2, max_size=3, open=True)
    )
    pool.wait()
    held = [pool.getconn() for _ in range(2)]
    proxy.deaf()
    served, got = [], []

    def client():
        with pool.connection() as conn:
            served.append(time.monotonic())
            got.append(conn.info.backend_pid)

    accepted = proxy.accepted
    queue = [threading.Thread(target=client) for _ in range(4)]
    for thread in queue:
        thread.start()
    until(lambda: pool.get_stats().get("requests_waiting") == 4 and proxy.accepted > accepted)
    fresh = ConnectionPool(conninfo, min_size=4, open=True)
    fresh.wait()
    began = time.monotonic()
    pool.replace(fresh)
    for thread in queue:
        thread.join(10)

    assert max(served) - began < 0.1
    assert len(got) == 4
    proxy.pass_through()
    for conn in held:
        conn.execute("SELECT 1")
        pool.putconn(conn)
    pool.close()


@pytest.mark.parametrize("check", [False, True])
def test_a_successor_that_is_swapped_away_too_serves_nobody_badly(no_leaks, database, check):
    """Two swaps at once: a client that moved to a generation which is retired meanwhile moves on."""
    holder = Holder(database, "stock", max_waiting=1, **({"check": ConnectionPool.check_connection} if check else {}))
    errors, served = [], threading.Event()
    held = [holder.pool.getconn() for _ in range(SIZE)]

    def client():
        try:
            with holder.pool.connection():
                served.set()
        except psycopg.Error as error:
            errors.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    until(lambda: holder.pool.get_stats().get("requests_waiting") == 1)
    busy = holder.stock()
    busy.open(wait=True)
    more = [busy.getconn() for _ in range(SIZE)]
    holder.pool.replace(busy)
    until(lambda: busy.get_stats().get("requests_waiting") == 1)
    assert not served.is_set()
    holder.pool.replace(holder.stock())
    thread.join(10)

    assert served.is_set()
    assert not errors
    for conn in (*held, *more):
        holder.pool.putconn(conn)
    holder.pool.close()
