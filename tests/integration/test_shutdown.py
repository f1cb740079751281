"""
The end of a pool: asked for, forgotten, and with a Vault that does not answer.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import warnings
from urllib.parse import urlsplit

import pytest

from vault_pool import DynamicRole, PoolClosed, Token, Vault, VaultPool


@pytest.fixture
def make_pool(vault_server, database):
    """Return a function that makes a pool of *vault_server*'s role `app` in *database*."""
    vault_server.database_role(database)

    def make(*, address=None, **options):
        vault = Vault(address or vault_server.address, auth=Token(vault_server.root_token), timeout=2.0)
        source = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
        return VaultPool(database.conninfo(), source=source, **{"min_size": 1, "max_size": 4, **options})

    return make


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def nothing_left(server, database):
    return not server.leases() and not database.roles() and not database.sessions()


def test_closing_leaves_nothing(no_leaks, make_pool, vault_server, database):
    """No role, lease, session, thread or descriptor, also right after rotations; a closed pool stays closed."""
    pool = make_pool()
    pool.open()
    for _ in range(3):
        pool.rotate()
    pool.close()

    assert vault_server.leases() == database.roles() == []
    until(lambda: nothing_left(vault_server, database))
    for attempt in (pool.open, pool.getconn, pool.rotate):
        with pytest.raises(PoolClosed):
            attempt()


def test_who_waits_is_refused_when_the_pool_closes(no_leaks, make_pool):
    """At once, not after its timeout."""
    pool = make_pool(max_size=1)
    pool.open()
    refused = []

    def client():
        with pytest.raises(PoolClosed):
            pool.getconn(timeout=30)
        refused.append(time.monotonic())

    conn = pool.getconn()
    thread = threading.Thread(target=client)
    thread.start()
    until(lambda: pool.get_stats()["requests_waiting"] == 1)
    closer = threading.Thread(target=pool.close)
    began = time.monotonic()
    closer.start()
    thread.join(10)
    pool.putconn(conn)
    closer.join(10)

    assert refused
    assert refused[0] - began < 1


def test_a_borrowed_connection_is_waited_for(no_leaks, make_pool, vault_server, database):
    """Its role lives until it is back; then close() returns."""
    pool = make_pool()
    pool.open()
    conn = pool.getconn()
    closer = threading.Thread(target=pool.close)
    closer.start()
    until(lambda: pool.closed)
    conn.execute("UPDATE items SET name = 'kept'")
    conn.commit()
    assert database.roles() == [conn.info.user]
    pool.putconn(conn)
    closer.join(5)

    assert not closer.is_alive()
    assert database.execute("SELECT DISTINCT name FROM items") == [("kept",)]
    assert vault_server.leases() == database.roles() == []


def test_a_vault_that_hangs_delays_closing_for_some_seconds_only(
    no_leaks, make_pool, vault_server, database, tcp_proxy, caplog
):
    """What is left is logged, and lapses."""
    address = urlsplit(vault_server.address)
    proxy = tcp_proxy(address.hostname, address.port)
    pool = make_pool(address=f"http://{proxy.host}:{proxy.port}")
    pool.open()
    lease_id = pool.status().lease_id
    proxy.deaf()
    began = time.monotonic()
    pool.close(timeout=1.0)

    assert time.monotonic() - began < 8
    assert any("not revoked in time" in r.getMessage() and lease_id in r.getMessage() for r in caplog.records)
    until(lambda: not database.sessions())


@pytest.mark.parametrize("rotation", [False, True], ids=["opening", "rotation"])
@pytest.mark.parametrize("moment", ["before the read", "after the read", "before the proof", "after the proof"])
def test_closing_meets_a_credential_on_its_way(no_leaks, make_pool, vault_server, database, rotation, moment):
    """Whatever the moment at which close() comes in between: what comes too late is given back."""
    reached, go_on = threading.Event(), threading.Event()

    def gate(here):
        if moment == here and not reached.is_set() and pool.status().generation == rotation:
            reached.set()
            assert go_on.wait(10)

    pool = make_pool()
    read, prepare = pool._source.read, pool._tenant.prepare

    def gated_read(now):
        gate("before the read")
        issued = read(now)
        gate("after the read")
        return issued

    def gated_prepare(credential):
        gate("before the proof")
        prepared = prepare(credential)
        gate("after the proof")
        return prepared

    pool._source.read, pool._tenant.prepare = gated_read, gated_prepare
    pool.open(wait=rotation)
    if rotation:
        pool.rotate(wait=False)
    assert reached.wait(10)
    closer = threading.Thread(target=pool.close)
    closer.start()
    until(lambda: pool.closed)
    go_on.set()
    closer.join(10)

    assert not closer.is_alive()
    until(lambda: nothing_left(vault_server, database))


def test_a_pool_that_opens_while_another_closes_keeps_its_credential(no_leaks, make_pool, vault_server, database):
    """Pools on one source come and go at the same time: none takes the other's lease or token along."""
    first = make_pool()
    first.open()
    for _ in range(10):
        second = VaultPool(database.conninfo(), source=first._source, min_size=1, max_size=2)
        closer = threading.Thread(target=first.close)
        closer.start()
        second.open()
        closer.join(10)
        assert not closer.is_alive()
        with second.connection() as conn:
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (1,)
        second.rotate()
        first = second
    first.close()
    until(lambda: nothing_left(vault_server, database))


def test_a_forgotten_pool_warns_and_closes(no_leaks, make_pool, vault_server, database):
    """A pool that is collected while open is a ResourceWarning; its lease is revoked all the same."""
    pools = [make_pool()]
    pools[0].open()
    with pytest.warns(ResourceWarning, match="was not closed"):
        pools.clear()
    until(lambda: nothing_left(vault_server, database))


def test_a_failed_start_leaves_nothing_to_warn_of(no_leaks, make_pool, vault_server):
    """A pool that never opened needs no close()."""
    vault_server.api("DELETE", f"{vault_server.mount}/roles/app")
    pool = make_pool()
    vault_server.api("DELETE", f"{vault_server.mount}/roles/app")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Exception, match="app"):
            pool.open()
        del pool
        gc.collect()


FORGETFUL = """
import json, sys, threading
from vault_pool import DynamicRole, Token, Vault, VaultPool
given = json.load(sys.stdin)
vault = Vault(given["address"], auth=Token(given["token"]))
pools = []
for _ in range(2):
    source = DynamicRole("app", vault=vault, mount_point=given["mount"])
    pool = VaultPool(given["conninfo"], source=source, min_size=1, max_size=2)
    pool.open()
    pools.append(pool)
def ending():
    ENDING
ending()
"""
ENDINGS = {
    "returns": "pass",
    "borrowed": "pool.getconn().execute('SELECT 1')",
    "rotated": "pool.rotate()",
    "rotating": "pool.rotate(wait=False)",
    "raises": "raise ValueError('the application failed')",
    "exits": "sys.exit(3)",
    "daemon": "threading.Thread(target=lambda: [pool.getconn() for _ in range(9)], daemon=True).start()",
    "unreferenced": "global pool, source; pools.clear(); del pool, source",
}


@pytest.mark.parametrize("options", [["-Wdefault"], ["-Werror"]], ids=["default", "error"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_exits_in_order(vault_process, vault_server, database, ending, options):
    """A program that forgets close() ends within seconds, says so, and leaves no lease and no role."""
    if vault_process.kind != "devserver":
        pytest.skip("what Vault it is makes no difference here")
    vault_server.database_role(database)
    given = {
        "address": vault_server.address,
        "token": vault_server.root_token,
        "mount": vault_server.mount,
        "conninfo": database.conninfo(),
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *options, "-c", FORGETFUL.replace("ENDING", ENDINGS[ending])],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert time.monotonic() - began < 20
    assert "was not closed" in done.stderr
    assert "Fatal Python error" not in done.stderr
    assert done.returncode == {"raises": 1, "exits": 3}.get(ending, 0)
    until(lambda: nothing_left(vault_server, database))
