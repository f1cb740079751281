"""
Sources that need no Vault, with a real database.
"""

from __future__ import annotations

import time

import psycopg
import pytest
from psycopg import sql

from vault_pool import Callback, Fixed, VaultPool
from vault_pool.events import PoolReplaced


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


def test_a_function_that_brings_another_password(database, open_pool):
    """Somebody changes it in the database and in the application's own store."""
    login = database.create_login()
    password = [login.password]
    pool, seen = open_pool(Callback(lambda: (login.user, password[0]), interval=0.5))
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
