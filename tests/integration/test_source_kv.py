"""
A credential in a KV store: changes under load, and what real servers answer where there is none.
"""

from __future__ import annotations

import re
import time

import pytest
from psycopg import sql

from tests.load import Load
from vault_pool import KV, Token, Vault, VaultDenied, VaultPool, VaultRefused


def until(condition, seconds=15.0):
    """Wait until *condition* holds; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture(params=[1, 2])
def version(request):
    """The version of the store."""
    return request.param


class Store:
    """A KV store of this test's own."""

    def __init__(self, server, version):
        self.server, self.version = server, version
        self.mount = f"{server.mount}-kv{version}"
        server.ask("POST", f"sys/mounts/{self.mount}", {"type": "kv", "options": {"version": str(version)}})
        # A store of version 2 is upgraded to it first, in the background.
        until(lambda: server.api("GET", self.path("nothing"))[0] == 404)

    def path(self, name):
        return f"{self.mount}/data/{name}" if self.version == 2 else f"{self.mount}/{name}"

    def write(self, name, **fields):
        self.server.ask("POST", self.path(name), {"data": fields} if self.version == 2 else fields)

    def source(self, name="shop", *, token=None, **settings):
        """Return a source that looks there; *settings* say otherwise."""
        vault = Vault(self.server.address, auth=Token(token or self.server.root_token))
        given = {"mount_point": self.mount, "version": self.version, "interval": 1.0}
        return KV(name, vault=vault, **{**given, **settings})


@pytest.fixture
def store(vault_server, version):
    made = Store(vault_server, version)
    yield made
    vault_server.api("DELETE", f"sys/mounts/{made.mount}")


def test_changes_under_load_fail_no_request(no_leaks, store, database):
    """Another password, then another user whose predecessor is dropped: each is taken within the interval."""
    login = database.create_login()
    store.write("shop", username=login.user, password=login.password)
    options = {"min_size": 1, "max_size": 3, "max_lifetime": 1.0}
    with (
        VaultPool(database.conninfo(), source=store.source(), **options) as pool,
        Load(pool, fast=3, slow=1, slow_seconds=0.3, think=0.005) as load,
    ):
        change = sql.SQL("ALTER ROLE {} PASSWORD 'another one'").format(sql.Identifier(login.user))
        database.execute(change)
        store.write("shop", username=login.user, password="another one")
        until(lambda: pool.status().generation == 2, 5)
        successor = database.create_login()
        store.write("shop", username=successor.user, password=successor.password)
        until(lambda: pool.status().generation == 3 and not pool.status().retiring, 5)
        assert not database.sessions(login.user)
        database.drop_role(login.user)
        time.sleep(0.3)
        assert pool.status().user == successor.user

    assert not load.failures
    assert load.requests > 100
    assert database.roles() == [successor.user]


def test_what_cannot_be_read_any_more_serves_on(no_leaks, store, database):
    """Deleted, or without its fields: the error is told, the credential serves, and the next one is taken."""
    login = database.create_login()
    store.write("shop", username=login.user, password=login.password)
    with VaultPool(database.conninfo(), source=store.source(), min_size=1) as pool:
        store.server.ask("DELETE", store.path("shop"))
        until(lambda: pool.status().last_error, 5)
        with pool.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        assert pool.status().generation == 1
        successor = database.create_login()
        store.write("shop", username=successor.user, password=successor.password)
        pool.rotate(timeout=10)
        assert pool.status().user == successor.user
        assert pool.status().last_error is None


def refusal(source):
    """Return the words of the error that *source* raises."""
    with pytest.raises((VaultRefused, VaultDenied)) as caught:
        source.read(0.0)
    source._vault.close()
    return str(caught.value)


@pytest.mark.parametrize("version", [2], indirect=True)
def test_what_servers_answer_is_explained(store, vault_server):
    """In the words of the settings, whatever the store, its version, or the policy."""
    first = Store(vault_server, 1)
    try:
        fields = {"username": "u", "password": "p"}
        store.write("shop", **fields)
        store.write("deleted", **fields)
        store.write("destroyed", **fields)
        store.write("other", user="u", password="p")
        store.write("typed", username="u", password=5)
        first.write("shop", **fields)
        vault_server.ask("DELETE", store.path("deleted"))
        vault_server.api("PUT", f"{store.mount}/destroy/destroyed", {"versions": [1]})
        narrow = vault_server.token(vault_server.policy(f'path "{store.mount}/shop" {{ capabilities = ["read"] }}'))
        told = {
            "missing": refusal(store.source("missing")),
            "deleted": refusal(store.source("deleted")),
            "destroyed": refusal(store.source("destroyed")),
            "field": refusal(store.source("other")),
            "typed": refusal(store.source("typed")),
            "v1 of 2": refusal(store.source(version=1)),
            "v2 of 1": refusal(first.source(version=2)),
            "data/": refusal(store.source("data/shop")),
            "data/ v1": refusal(store.source("data/shop", version=1)),
            "mount": refusal(store.source(f"{store.mount}/shop")),
            "policy": refusal(store.source(token=narrow)),
        }
    finally:
        vault_server.api("DELETE", f"sys/mounts/{first.mount}")
    remedies = {
        "missing": "check path and mount_point",
        "deleted": "version 1 of .* was deleted",
        "destroyed": "version 1 of .* was destroyed",
        "field": "user_field",
        "typed": "password_field",
        "v1 of 2": "set version=2",
        "v2 of 1": "set version=1",
        "data/": "leave data/ out of path",
        "data/ v1": "set version=2, and leave data/ out",
        "mount": f"leave {store.mount}/ out of path",
        "policy": f"'read'.*{store.mount}/data/shop|{store.mount}/data/shop.*read",
    }
    assert {what: words for what, words in told.items() if not re.search(remedies[what], words)} == {}
