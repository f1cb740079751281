"""
Sources without leases, with real databases: the password or the user changes under load, and no request fails.
"""

from __future__ import annotations

import json
import secrets
import time

import psycopg
import pytest
from psycopg import sql

from tests.load import Load
from vault_pool import KV, AgentFile, Callback, Fixed, StaticRole, Token, Vault, VaultPool
from vault_pool.errors import VaultRefused
from vault_pool.events import PoolReplaced, RotationFailed


@pytest.fixture
def vault(vault_server):
    """A Vault that the application knows."""
    return Vault(vault_server.address, auth=Token(vault_server.root_token), timeout=5.0)


@pytest.fixture
def open_pool(database):
    """Return a function that opens a pool of a source, and the list of its events."""
    pools = []

    def open_pool(source):
        seen = []
        pool = VaultPool(database.conninfo(), source=source, min_size=1, max_size=4, on_event=seen.append)
        pools.append(pool)
        pool.open()
        return pool, seen

    yield open_pool
    for pool in pools:
        pool.close()


@pytest.fixture
def static_role(vault_server, database):
    """Return a function that makes a static role of Vault's for a user with its own life; return the user."""

    def make(name="app", **more):
        login = database.create_login()
        config = vault_server.database_config(database)
        body = {"db_name": config, "username": login.user, "rotation_period": "1h", **more}
        vault_server.ask("POST", f"{vault_server.mount}/static-roles/{name}", body)
        return login.user

    return make


def until(condition, seconds=15.0):
    """Wait until *condition* holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def replaced(seen):
    """How often a generation began to serve."""
    return sum(isinstance(event, PoolReplaced) for event in seen)


def change_password(database, user, password):
    """Do as an administrator does by hand."""
    change = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), sql.Literal(password))
    database.superuser_execute(change)


def test_a_static_role_is_followed_through_its_rotations(vault, vault_server, open_pool, static_role):
    """Vault changes the password every few seconds, under load; the user stays, and so do the sessions that are out."""
    user = static_role(rotation_period="5s")
    pool, seen = open_pool(StaticRole("app", vault=vault, mount_point=vault_server.mount))
    with Load(pool, fast=3, slow=1, slow_seconds=0.5, think=0.002) as load:
        until(lambda: replaced(seen) >= 2, 30)

    assert not load.failures
    assert pool.status().user == user
    assert {event.user for event in seen if isinstance(event, PoolReplaced)} == {user}


def test_a_password_that_was_rotated_by_hand_is_read_at_the_first_refused_login(
    vault, vault_server, open_pool, static_role
):
    """The pool grows, PostgreSQL refuses the old password, Vault has the new one; the open sessions serve on."""
    static_role()
    pool, seen = open_pool(StaticRole("app", vault=vault, mount_point=vault_server.mount))
    vault_server.ask("POST", f"{vault_server.mount}/rotate-role/app")
    with pool.connection() as first, pool.connection() as second:
        assert first.execute("SELECT 1").fetchone() == second.execute("SELECT 1").fetchone()
    until(lambda: replaced(seen) == 2)


def test_rotating_by_hand_reads_again(vault, vault_server, open_pool, static_role):
    """`rotate` makes a generation of what Vault has now, the same password or another."""
    static_role()
    pool, seen = open_pool(StaticRole("app", vault=vault, mount_point=vault_server.mount))
    vault_server.ask("POST", f"{vault_server.mount}/rotate-role/app")
    pool.rotate()
    pool.rotate()
    with pool.connection() as first, pool.connection() as second:
        assert first.info.backend_pid != second.info.backend_pid
    until(lambda: replaced(seen) == 3)


def test_a_static_role_that_vault_does_not_know(vault, vault_server, database):
    """Is told at open()."""
    vault_server.database_config(database)
    source = StaticRole("nobody", vault=vault, mount_point=vault_server.mount)
    with pytest.raises(VaultRefused, match="nobody"):
        VaultPool(database.conninfo(), source=source).open(timeout=5)


@pytest.mark.parametrize("version", [1, 2])
def test_a_new_version_of_a_secret_is_taken(vault, vault_server, database, open_pool, version):
    """Another user, under load; the former one is dropped behind it. A deleted secret takes nothing away."""
    mount_point = f"kv-{secrets.token_hex(4)}"
    vault_server.ask("POST", f"sys/mounts/{mount_point}", {"type": "kv", "options": {"version": str(version)}})
    path = f"{mount_point}/data/app" if version == 2 else f"{mount_point}/app"

    def write(login):
        fields = {"username": login.user, "password": login.password}
        body = {"data": fields} if version == 2 else fields
        until(lambda: vault_server.api("POST", path, body)[0] < 300)  # a new mount of version 2 upgrades itself first

    first, second = database.create_login(), database.create_login()
    write(first)
    pool, seen = open_pool(KV("app", vault=vault, mount_point=mount_point, version=version, interval=1.0))
    with Load(pool, fast=3, slow=1, slow_seconds=0.3, think=0.002) as load:
        write(second)
        until(lambda: replaced(seen) == 2)
        until(lambda: not database.sessions(first.user))
        database.drop_role(first.user)
        vault_server.api("DELETE", path)
        until(lambda: any(isinstance(event, RotationFailed) for event in seen))

    assert not load.failures
    assert pool.status().user == second.user
    vault_server.api("DELETE", f"sys/mounts/{mount_point}")


def test_a_file_that_is_replaced_is_taken(database, open_pool, tmp_path):
    """Another user, under load; the former one is dropped behind it. Half a file takes nothing away."""
    path = tmp_path / "db.json"

    def write(login):
        fresh = tmp_path / "fresh"
        fresh.touch(0o600)
        fresh.write_text(json.dumps({"username": login.user, "password": login.password}))
        fresh.replace(path)

    first, second = database.create_login(), database.create_login()
    write(first)
    pool, seen = open_pool(AgentFile(path, interval=0.1))
    with Load(pool, fast=3, slow=1, slow_seconds=0.3, think=0.002) as load:
        write(second)
        until(lambda: replaced(seen) == 2)
        until(lambda: not database.sessions(first.user))
        database.drop_role(first.user)
        path.write_text('{"username": "half')
        until(lambda: any(isinstance(event, RotationFailed) for event in seen))

    assert not load.failures
    assert pool.status().user == second.user


def test_a_pool_waits_for_its_file(database, tmp_path):
    """Vault Agent may come a moment later."""
    login = database.create_login()
    path = tmp_path / "db.env"
    pool = VaultPool(database.conninfo(), source=AgentFile(path, interval=0.1), min_size=1)
    pool.open(wait=False)
    path.touch(0o600)
    path.write_text(f"username={login.user}\npassword='{login.password}'\n")
    with pool, pool.connection() as conn:
        assert conn.info.user == login.user


def test_a_function_that_brings_another_password(database, open_pool):
    """Somebody changes it in the database and in the application's own store."""
    login = database.create_login()
    password = [login.password]
    pool, seen = open_pool(Callback(lambda: (login.user, password[0]), interval=0.1))
    change_password(database, login.user, "another-password-of-it")
    password[0] = "another-password-of-it"
    until(lambda: replaced(seen) == 2)
    with pool.connection() as first, pool.connection() as second:
        assert first.info.user == second.info.user == login.user


def test_a_fixed_user_needs_no_vault(database, open_pool):
    """The same pool, the same methods."""
    login = database.create_login()
    pool, seen = open_pool(Fixed(login.user, login.password))
    pool.rotate()
    with pool.connection() as conn:
        assert conn.info.user == login.user
    until(lambda: replaced(seen) == 2)
    assert pool.status().expires_in is None


def test_a_fixed_user_with_a_wrong_password(database):
    """Is told at open()."""
    login = database.create_login()
    pool = VaultPool(database.conninfo(), source=Fixed(login.user, "not-the-password-of-it"), min_size=1)
    with pytest.raises(psycopg.OperationalError, match="password"):
        pool.open(timeout=1.0)
