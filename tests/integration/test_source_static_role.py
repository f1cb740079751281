"""
A static role through real rotations: of Vault's own accord, by hand, and while Vault is behind.
"""

from __future__ import annotations

import time

import pytest
from psycopg import sql

from tests.load import Load
from vault_pool import LoginFailed, StaticRole, Token, Vault, VaultPool, VaultRefused
from vault_pool.events import LeaseLost, PoolReplaced
from vault_pool.runtime import tenant


def until(condition, seconds=15.0):
    """Wait until *condition* holds; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def static_role(vault_server, database):
    """Return a function that has Vault rotate the password of a user, every *period* seconds; it returns the user."""
    role = f"{vault_server.mount}/static-roles/app"

    def make(period):
        login = database.create_login()
        body = {"db_name": vault_server.database_config(database), "username": login.user, "rotation_period": period}
        status, answer = vault_server.api("POST", role, body)
        if vault_server.kind == "devserver" and status == 400:
            pytest.skip(answer["errors"][0])
        assert status < 300, answer
        return login.user

    yield make
    vault_server.api("DELETE", role)


@pytest.fixture
def make_pool(vault_server, database):
    """Return a function that makes a pool of the static role."""

    def make(role="app", **options):
        vault = Vault(vault_server.address, auth=Token(vault_server.root_token))
        source = StaticRole(role, vault=vault, mount_point=vault_server.mount)
        return VaultPool(database.conninfo(), source=source, **{"min_size": 1, "max_size": 4, **options})

    return make


def rotate(server):
    """Have Vault change the password now."""
    server.ask("POST", f"{server.mount}/rotate-role/app")


def test_rotations_by_vault_fail_no_request(no_leaks, make_pool, static_role, vault_server, database):
    """Each is taken some seconds after it came; meanwhile connections come and go, and nobody notices."""
    user = static_role(5)
    seen = []
    with (
        # Connections live for 2 s: there is always somebody who logs in.
        make_pool(max_size=3, max_lifetime=2.0, on_event=seen.append) as pool,
        Load(pool, fast=3, slow=1, slow_seconds=0.5, think=0.005) as load,
    ):
        until(lambda: pool.status().generation >= 3, 45)

    assert not load.failures
    assert load.requests > 500
    assert {event.user for event in seen if isinstance(event, PoolReplaced)} == {user}
    assert not [event for event in seen if isinstance(event, LeaseLost)]
    assert database.roles() == [user]


def test_a_rotation_by_hand_is_noticed_by_the_first_refused_login(no_leaks, make_pool, static_role, vault_server):
    """Long before the next look; what is open serves on."""
    static_role(86400)
    with make_pool() as pool, pool.connection() as conn:
        rotate(vault_server)
        with pool.connection(timeout=10) as another:
            assert another.execute("SELECT 1").fetchone() == (1,)
        assert pool.status().generation == 2
        assert conn.execute("SELECT count(*) FROM items").fetchone() == (1,)


def test_a_password_that_vault_has_not_noted_yet_is_read_again(
    no_leaks, make_pool, static_role, vault_server, database, monkeypatch
):
    """
    Vault changes it in the database first: whoever reads meanwhile gets the old one, and reads again.

    A process that starts then begins as soon as Vault is right, and a pool that serves by the one before serves on.
    """
    monkeypatch.setattr(tenant, "PROOF_TIMEOUT", 0.3)
    user = static_role(86400)
    change = sql.SQL("ALTER ROLE {} PASSWORD 'another one'").format(sql.Identifier(user))
    with make_pool() as serving, serving.connection() as conn:
        database.execute(change)
        starting = make_pool()
        starting.open(wait=False)
        until(lambda: isinstance(starting._tenant.last_error, LoginFailed))
        serving.rotate(wait=False)
        until(lambda: serving.status().last_error)
        assert (starting.status().generation, serving.status().generation) == (0, 1)
        assert conn.execute("SELECT 1").fetchone() == (1,)
        rotate(vault_server)
        until(lambda: starting.status().generation == 1 and serving.status().generation == 2)
        with starting.connection() as another:
            assert another.execute("SELECT 1").fetchone() == (1,)
        starting.close()


def test_what_is_no_static_role_is_refused_at_open(no_leaks, make_pool, static_role):
    """The error names it."""
    static_role(86400)
    with pytest.raises(VaultRefused, match="nope"):
        make_pool(role="nope").open(timeout=10)
