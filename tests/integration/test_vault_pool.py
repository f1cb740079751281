"""
VaultPool end to end: against the development server, a real OpenBao and a real Vault.
"""

from __future__ import annotations

import logging
import threading
import time
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.load import Load
from vault_pool import (
    AppRole,
    ConfigurationError,
    DynamicRole,
    PoolClosed,
    PoolError,
    PoolTimeout,
    Token,
    Vault,
    VaultDenied,
    VaultPool,
    VaultRefused,
    VaultUnavailable,
)
from vault_pool.events import GenerationRetired, LeaseLost, PoolReplaced


def approle(login):
    """Return the auth of an AppRole that a fixture made."""
    return AppRole(login.role_id, login.secret_id, mount_point=login.mount_point)


@pytest.fixture
def make_pool(vault_server, database):
    """Return a function that makes a pool of *vault_server*'s role `app` in *database*."""

    def make(*, auth=None, address=None, role="app", conninfo=None, **options):
        vault = Vault(address or vault_server.address, auth=auth or Token(vault_server.root_token), timeout=2.0)
        source = DynamicRole(role, vault=vault, mount_point=vault_server.mount)
        return VaultPool(conninfo or database.conninfo(), source=source, **{"min_size": 1, "max_size": 4, **options})

    return make


def until(condition, seconds=15.0):
    """Wait until *condition* holds; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def left(server, database):
    """Return what is left in Vault and in PostgreSQL, once the server's sessions have had a moment to exit."""
    until(lambda: not [session for session in database.sessions() if str(session.user).startswith("v-")])
    return server.leases(), database.roles()


def test_rotations_by_the_leases_own_times_fail_no_request(no_leaks, make_pool, vault_server, database):
    """A lease of 2 s, 3 s at most, is renewed, met by max_ttl, and succeeded; no client notices, nothing is left."""
    vault_server.database_role(database, default_ttl="2s", max_ttl="3s")
    seen = []
    with (
        make_pool(auth=approle(vault_server.approle()), on_event=seen.append) as pool,
        Load(pool, fast=4, slow=1, slow_seconds=0.5, think=0.005) as load,
    ):
        until(lambda: pool.status().generation >= 4, 30)

    assert not load.failures
    assert load.requests > 100
    assert [event.generation for event in reversed(seen) if isinstance(event, PoolReplaced)][-3:] == [3, 2, 1]
    assert any(isinstance(event, GenerationRetired) for event in seen)
    assert left(vault_server, database) == ([], [])


def test_a_token_that_dies_before_the_lease_is_succeeded_in_time(make_pool, vault_server, database):
    """A token of 2 s, 4 s at most, under a lease of an hour: the rotation comes before it dies."""
    vault_server.database_role(database, default_ttl="1h", max_ttl="2h")
    auth = approle(vault_server.approle(token_ttl="2s", token_max_ttl="4s"))
    with make_pool(auth=auth) as pool, Load(pool, fast=2, slow=0, think=0.005) as load:
        until(lambda: pool.status().generation >= 3, 30)

    assert not load.failures
    assert left(vault_server, database) == ([], [])


def test_a_token_with_few_uses_is_succeeded_before_its_last(make_pool, vault_server, database):
    """The last use of a token would kill its leases: it is never spent."""
    vault_server.database_role(database, default_ttl="2s", max_ttl="3s")
    auth = approle(vault_server.approle(token_num_uses=3))
    with make_pool(auth=auth) as pool, Load(pool, fast=2, slow=0, think=0.005) as load:
        until(lambda: pool.status().generation >= 3, 30)

    assert not load.failures
    assert left(vault_server, database) == ([], [])


def test_a_policy_without_revoke_leaves_no_role(make_pool, vault_server, database, caplog):
    """Where sys/leases/revoke is forbidden, leases end by a renewal for one second; the log says so once."""
    vault_server.database_role(database, default_ttl="2s", max_ttl="3s")
    policy = vault_server.policy(f'path "{vault_server.mount}/creds/app" {{ capabilities = ["read"] }}')
    with make_pool(auth=approle(vault_server.approle(policy))) as pool:
        until(lambda: pool.status().generation >= 3, 30)

    until(lambda: left(vault_server, database) == ([], []))
    warnings = [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and "sys/leases/revoke" in record.getMessage()
    ]
    assert len(warnings) == 1


def test_a_lease_revoked_by_hand_is_replaced(make_pool, vault_server, database):
    """When Vault says that the lease is lost, its generation is retired at once and a successor read."""
    vault_server.database_role(database, default_ttl="3s", max_ttl="1h")
    seen = []
    with make_pool(on_event=seen.append) as pool:
        vault_server.revoke(pool.status().lease_id)
        until(lambda: pool.status().generation == 2)
        with pool.connection() as conn:
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (1,)

    assert [LeaseLost] == [type(event) for event in seen if isinstance(event, LeaseLost)]
    assert left(vault_server, database) == ([], [])


def test_two_pools_on_one_source_share_a_lease_and_rotate_together(vault_server, database):
    """The watcher belongs to the source: both pools serve by one credential, before and after a rotation."""
    vault_server.database_role(database)
    vault = Vault(vault_server.address, auth=Token(vault_server.root_token))
    source = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    with (
        VaultPool(database.conninfo(), source=source, min_size=1) as first,
        VaultPool(database.conninfo(), source=source, min_size=1) as second,
    ):
        assert first.status().user == second.status().user
        assert len(vault_server.leases()) == 1
        old = first.status().user
        first.rotate()
        until(lambda: second.status().generation == 2)

        assert first.status().user == second.status().user != old

    assert left(vault_server, database) == ([], [])


def test_a_vault_that_hangs_delays_no_other_pool(make_pool, vault_server, database, tcp_proxy):
    """While one Vault answers nothing, the pool of another rotates on time."""
    vault_server.database_role(database, default_ttl="2s", max_ttl="3s")
    address = urlsplit(vault_server.address)
    proxy = tcp_proxy(address.hostname, address.port)
    hung = make_pool(address=f"http://{proxy.host}:{proxy.port}")
    with make_pool() as well, hung:
        proxy.deaf()
        number = well.status().generation
        began = time.monotonic()
        until(lambda: well.status().generation >= number + 3, 15)

        assert time.monotonic() - began < 10
        assert hung.status().generation == 1
        proxy.pass_through()
        until(lambda: hung.status().generation > 1, 30)


def test_rotate_while_vault_is_away_raises_and_the_pool_serves_on(make_pool, vault_server, database, tcp_proxy):
    """A rotation by hand that fails says why, and changes nothing."""
    vault_server.database_role(database)
    address = urlsplit(vault_server.address)
    proxy = tcp_proxy(address.hostname, address.port)
    with make_pool(address=f"http://{proxy.host}:{proxy.port}") as pool:
        proxy.refuse()
        proxy.cut()
        with pytest.raises(VaultUnavailable):
            pool.rotate()
        with pool.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        assert pool.status().last_error
        proxy.pass_through()
        pool.rotate(timeout=30)

        assert pool.status().generation == 2


def test_opening_in_the_background_waits_for_vault(make_pool, vault_server, database, tcp_proxy):
    """With wait=False the attempts go on, and checkouts wait for them; their error names what is in the way."""
    vault_server.database_role(database)
    address = urlsplit(vault_server.address)
    proxy = tcp_proxy(address.hostname, address.port)
    proxy.refuse()
    pool = make_pool(address=f"http://{proxy.host}:{proxy.port}")
    pool.open(wait=False)
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0.5)
    assert isinstance(caught.value.__cause__, VaultUnavailable)
    proxy.pass_through()
    with pool.connection(timeout=30) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    pool.close()


def test_close_names_who_still_holds_a_connection(make_pool, vault_server, database, caplog):
    """close() waits for what is borrowed, then revokes anyway; the log names the thread."""
    vault_server.database_role(database)
    pool = make_pool()
    pool.open()
    taken, release = threading.Event(), threading.Event()

    def hold():
        with pool.connection():
            taken.set()
            release.wait(30)

    thread = threading.Thread(target=hold, name="the-holder")
    thread.start()
    assert taken.wait(10)
    pool.close(timeout=0.2)

    assert vault_server.leases() == []
    assert any("the-holder" in record.getMessage() for record in caplog.records)
    with pytest.raises(PoolClosed):
        pool.getconn()
    release.set()
    thread.join()
    assert left(vault_server, database) == ([], [])


def test_one_line_a_rotation(make_pool, vault_server, database, caplog):
    """A rotation is one INFO line, and holds no password."""
    caplog.set_level(logging.INFO, logger="vault_pool")
    vault_server.database_role(database)
    with make_pool() as pool:
        until(lambda: "generation 1 serves" in caplog.text)
        caplog.clear()
        pool.rotate()
        until(lambda: "generation 2 serves" in caplog.text)
        user, password = pool._current.credential.user, pool._current.credential.password

    lines = [record.getMessage() for record in caplog.records if record.name == "vault_pool.watcher"]
    assert len(lines) == 1
    assert user in lines[0]
    assert password not in caplog.text


# --- What only Vault or PostgreSQL can tell ----------------------------------------------------------------


def refused(no_leaks, pool, error, *words, timeout=10.0):
    """Open *pool*, which has to fail with *error*, whose text has *words*."""
    with pytest.raises(error) as caught:
        pool.open(timeout=timeout)
    for word in words:
        assert word in str(caught.value)
    assert pool.closed


def test_an_unknown_role_is_refused_at_open(no_leaks, make_pool, vault_server, database):
    """The error names the role."""
    vault_server.database_role(database)
    refused(no_leaks, make_pool(role="nope"), VaultRefused, "nope")


def test_a_missing_policy_is_refused_at_open(no_leaks, make_pool, vault_server, database):
    """The error names the path and the capability."""
    vault_server.database_role(database)
    auth = approle(vault_server.approle(vault_server.policy('path "nothing" { capabilities = ["read"] }')))
    refused(no_leaks, make_pool(auth=auth), VaultDenied, f"{vault_server.mount}/creds/app", "read")


def test_an_unreachable_vault_is_tried_until_the_timeout(no_leaks, make_pool, vault_server, database, tcp_proxy):
    """The cause is raised, not a bare timeout."""
    proxy = tcp_proxy("127.0.0.1", 1)
    proxy.refuse()
    proxy.cut()
    pool = make_pool(address=f"http://{proxy.host}:{proxy.port}")
    refused(no_leaks, pool, VaultUnavailable, timeout=0.5)


def test_a_credential_that_cannot_log_in_is_refused_and_given_back(no_leaks, make_pool, vault_server, database):
    """A role without LOGIN: the database's own words, and no lease or role is left."""
    creation = "CREATE ROLE \"{{name}}\" NOLOGIN PASSWORD '{{password}}'"
    vault_server.database_role(database, creation_statements=[creation])
    refused(no_leaks, make_pool(), PoolError, "not permitted to log in", timeout=0.5)

    assert left(vault_server, database) == ([], [])


def test_a_failed_open_may_be_repeated(make_pool, vault_server, database):
    """Nothing is lost by a failed start."""
    vault_server.database_role(database)
    pool = make_pool(role="later")
    with pytest.raises(VaultRefused):
        pool.open()
    vault_server.database_role(database, "later")
    with pool, pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


# --- What cannot work at all -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conninfo": "host=x user=me"}, ["conninfo", "user"]),
        ({"conninfo": "postgresql://me:secret@x/db"}, ["conninfo", "password"]),
        ({"conninfo": "postgresql+psycopg://x/db"}, ["conninfo", "postgresql://"]),
        ({"conninfo": "host=x secret"}, ["conninfo"]),
        ({"kwargs": {"password": "secret"}}, ["kwargs", "password"]),
        ({"min_size": 5, "max_size": 2}, ["max_size", "min_size"]),
        ({"min_size": -1}, ["min_size"]),
        ({"timeout": 0}, ["timeout"]),
        ({"retire_timeout": -1.0}, ["retire_timeout"]),
        ({"overlap": 0}, ["overlap"]),
        ({"open": True}, ["open"]),
    ],
)
def test_settings_that_cannot_work_are_refused_without_io(options, words):
    """The error names the setting, and holds no password."""
    source = DynamicRole("app", vault=Vault("http://127.0.0.1:1", auth=Token("t")))
    with pytest.raises(ConfigurationError) as caught:
        VaultPool(**{"conninfo": "dbname=x", "source": source, **options})
    for word in words:
        assert word in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_pool_that_is_not_open_says_so():
    """Neither a hang nor a bare timeout."""
    source = DynamicRole("app", vault=Vault("http://127.0.0.1:1", auth=Token("t")))
    pool = VaultPool("dbname=x", source=source)
    with pytest.raises(PoolClosed, match="not open"), pool.connection():
        pass
    assert pool.closed
    pool.close()
    assert issubclass(PoolClosed, psycopg.OperationalError)
