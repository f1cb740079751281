"""
The Django backend, by its own public behaviour: connections, threads, time zones, persistent connections.
"""

from __future__ import annotations

import threading
import time

import django
import psycopg
import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.signals import connection_created
from django.db.utils import ConnectionHandler, OperationalError

from tests.role_source import RoleSource
from tests.swapping import swapping
from vault_pool import Token, Vault, VaultPool
from vault_pool.django import base
from vault_pool.django.checks import check_databases
from vault_pool.django.client import DatabaseClient
from vault_pool.django.settings import new_pool

if not settings.configured:
    settings.configure(USE_TZ=True, TIME_ZONE="UTC", INSTALLED_APPS=["vault_pool.django"], DATABASES={})
    django.setup()


@pytest.fixture
def shop(shared_database):
    return shared_database


def section(shop, **changes):
    """Return DATABASES["default"] for a database of the tests; `vault` are changes of its section VAULT."""
    vault = {"SOURCE": RoleSource(shop), "MIN_SIZE": 1, "MAX_SIZE": 3, "TIMEOUT": 5, **changes.pop("vault", {})}
    place = {"HOST": shop.server.host, "PORT": str(shop.server.port), "NAME": shop.name}
    return {"ENGINE": "vault_pool.django", **place, "VAULT": vault, **changes}


@pytest.fixture
def connect(shop):
    """Return a function that makes a handler of connections, like `django.db.connections`."""
    made = []

    def make(databases=None, **changes):
        handler = ConnectionHandler(databases or {DEFAULT_DB_ALIAS: section(shop, **changes)})
        made.append(handler)
        return handler

    yield make
    for handler in made:
        for connection in handler.all():  # also those that only other threads have used
            connection.close()
            connection.end_pool()


def ask(connection, statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def test_a_connection_is_the_pools_and_comes_back(connect):
    """Nothing is opened before the first query; after close() the session is idle in the pool."""
    connection = connect()["default"]
    assert connection.pool.closed

    assert ask(connection, "SELECT current_user") == connection.pool.status().user
    connection.close()

    assert connection.pool.get_stats()["pool_available"] == 1


def test_sizes_may_stand_in_options(connect):
    """A project that had OPTIONS["pool"] keeps it."""
    connection = connect(OPTIONS={"pool": {"max_waiting": 7}, "application_name": "shop"})["default"]

    assert connection.pool.max_waiting == 7
    assert ask(connection, "SHOW application_name") == "shop"


def test_options_of_the_pool_go_before_what_django_says(connect):
    """A name, and a check beside CONN_HEALTH_CHECKS, are as they were given."""
    looks = []
    pool = {"name": "mine", "check": looks.append}
    connection = connect(CONN_HEALTH_CHECKS=True, OPTIONS={"pool": pool})["default"]
    ask(connection, "SELECT 1")

    assert connection.pool.name == "mine"
    assert looks


def test_a_role_is_assumed_without_a_deadlock(connect, shop):
    """Django's own backend cannot open a pool with assume_role; here objects belong to the role."""
    connection = connect(OPTIONS={"pool": True, "assume_role": shop.group})["default"]

    assert ask(connection, "SELECT current_user") == shop.group
    assert ask(connection, "SELECT session_user") == connection.pool.status().user


def test_threads_share_the_pool(connect):
    """Wrappers belong to threads, the pool to the database."""
    handler = connect()
    pools = []

    def look():
        pools.append(handler["default"].pool)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(pool) for pool in pools}) == 1


def test_a_thread_that_ends_without_closing_gives_its_connection_back(connect):
    """More threads than the pool has connections, one after the other, none of which closes anything."""
    handler = connect()
    users = []

    def work():
        users.append(ask(handler["default"], "SELECT current_user"))

    for _ in range(5):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert len(users) == 5
    stats = handler["default"].pool.get_stats()
    assert stats["pool_available"] == stats["pool_size"]


def test_a_thread_whose_connection_was_refused_by_a_receiver_gives_it_back(connect):
    """A receiver of connection_created fails when the connection is there already."""
    handler = connect()

    def refuse(**_):
        raise LookupError

    def work():
        with pytest.raises(LookupError):
            ask(handler["default"], "SELECT 1")

    connection_created.connect(refuse)
    try:
        for _ in range(4):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    finally:
        connection_created.disconnect(refuse)

    assert ask(handler["default"], "SELECT 1") == 1


def test_a_process_that_ends_does_not_wait_for_itself(connect):
    """What its main thread still has, by CONN_MAX_AGE for example, is given back first."""
    connection = connect(CONN_MAX_AGE=None)["default"]
    ask(connection, "SELECT 1")
    began = time.monotonic()
    base._close_all()

    assert time.monotonic() - began < 3  # it would wait for 5 s
    assert connection.pool._source.dropped


def test_the_pools_of_mirrors_end_with_their_primarys(connect, shop):
    """A test database cannot be dropped while a replica's pool has sessions in it."""
    handler = connect({alias: section(shop) for alias in ("default", "replica")})
    for connection in handler.all():
        ask(connection, "SELECT 1")
        connection.close()
    pools = [connection.pool for connection in handler.all()]
    handler["default"].end_pool()

    assert all(pool.closed for pool in pools)


def test_a_connection_to_no_database_leaves_no_pool(connect, shop, monkeypatch):
    """Also where it cannot be made: Django goes on to another database, and nobody closes a wrapper twice."""
    monkeypatch.setattr(base, "_NO_DB_TIMEOUT", 0.5)
    shop.superuser_execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
    connection = connect()["default"]
    made = []
    monkeypatch.setattr(base, "new_pool", lambda *args, **kwargs: made.append(new_pool(*args, **kwargs)) or made[-1])
    with pytest.raises(OperationalError), pytest.warns(RuntimeWarning, match="postgres"), connection._nodb_cursor():
        pass
    shop.superuser_execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")

    assert [pool.name for pool in made] == ["__no_db__"]
    assert made[0].closed


def test_a_thread_that_ends_in_a_transaction_rolls_back(connect, shop):
    """What a thread did not commit is not committed for it."""
    handler = connect()

    def work():
        handler["default"].set_autocommit(False)
        ask(handler["default"], "INSERT INTO items (name) VALUES ('half') RETURNING id")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ask(handler["default"], "SELECT 1")

    assert shop.execute("SELECT count(*) FROM items WHERE name = 'half'") == [(0,)]


def test_close_pool_renews_sessions_and_leaves_the_lease_alone(connect):
    """Celery calls it around every task: no request to Vault, another session."""
    connection = connect()["default"]
    first = ask(connection, "SELECT pg_backend_pid()")
    connection.close()
    source = connection.pool._source
    before = dict(source.requests)
    for _ in range(3):
        connection.close_pool()
        second = ask(connection, "SELECT pg_backend_pid()")
        connection.close()

    assert second != first
    assert source.requests["read"] == before["read"]
    assert not source.dropped


def test_a_time_zone_that_changes_is_that_of_new_sessions(connect):
    """What Django's tests do by override_settings(TIME_ZONE=…); the lease is left alone."""
    connection = connect(TIME_ZONE="Europe/Paris")["default"]
    assert ask(connection, "SHOW TimeZone") == "Europe/Paris"
    connection.settings_dict["TIME_ZONE"] = "Asia/Tokyo"
    for name in ("timezone", "timezone_name"):
        connection.__dict__.pop(name, None)
    connection.ensure_timezone()
    assert ask(connection, "SHOW TimeZone") == "Asia/Tokyo"

    connection.close()
    assert ask(connection, "SHOW TimeZone") == "Asia/Tokyo"
    assert connection.pool.status().generation == 1


def test_a_persistent_connection_is_kept_until_its_credential_is_old(connect):
    """CONN_MAX_AGE keeps it from request to request; the first end of a request after a rotation gives it back."""
    connection = connect(CONN_MAX_AGE=None)["default"]
    first = ask(connection, "SELECT pg_backend_pid()")
    connection.close_if_unusable_or_obsolete()
    assert ask(connection, "SELECT pg_backend_pid()") == first

    connection.pool.rotate()
    deadline = time.monotonic() + 5
    while connection.connection is not None and time.monotonic() < deadline:
        connection.close_if_unusable_or_obsolete()
    assert ask(connection, "SELECT current_user") == connection.pool.status().user


def test_a_persistent_connection_that_broke_is_noticed(connect, shop):
    """CONN_HEALTH_CHECKS: a request that begins with a dead session gets another one."""
    connection = connect(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)["default"]
    ask(connection, "SELECT 1")
    connection.close_if_unusable_or_obsolete()
    shop.terminate()

    assert ask(connection, "SELECT 1") == 1


def test_a_transaction_in_flight_is_not_moved(connect):
    """A rotation while a transaction is open changes nothing for it."""
    connection = connect()["default"]
    connection.set_autocommit(False)
    first = ask(connection, "SELECT current_user")
    connection.pool.rotate()
    assert ask(connection, "SELECT current_user") == first
    connection.commit()
    connection.close()
    assert ask(connection, "SELECT current_user") != first


def test_other_tools_get_the_credential_of_now(connect):
    """Whoever asks the backend for connection parameters can log in with them; Django's own frames have none."""
    connection = connect()["default"]
    parameters = connection.get_connection_params()
    with psycopg.connect(**parameters) as conn:
        assert conn.info.user == connection.pool.status().user
    connection._is_connecting = True
    assert "password" not in connection.get_connection_params()
    connection._is_connecting = False


def test_the_credential_of_now_needs_no_second_connection(connect):
    """A thread that has the pool's only connection may ask as well; once that is old, the successor's is told."""
    connection = connect(vault={"MAX_SIZE": 1, "TIMEOUT": 3})["default"]
    first = ask(connection, "SELECT current_user")
    assert connection.get_connection_params()["user"] == first
    connection.pool.rotate()
    deadline = time.monotonic() + 5
    while not connection.connection._pool.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert connection.get_connection_params()["user"] == connection.pool.status().user != first


def test_a_database_that_has_no_connection_left_is_an_operational_error(connect):
    """PoolTimeout arrives as Django's own error."""
    handler = connect(vault={"MAX_SIZE": 1, "TIMEOUT": 0.3})
    held = handler["default"].pool
    held.open()
    with held.connection(), pytest.raises(OperationalError, match="couldn't get a connection"):
        ask(handler["default"], "SELECT 1")


def test_two_aliases_with_one_source_rotate_together(connect, shop):
    """The primary and its replica share a lease where their settings of the source are the same."""
    source = RoleSource(shop)
    handler = connect({alias: section(shop, vault={"SOURCE": source}) for alias in ("default", "replica")})
    for connection in handler.all():
        ask(connection, "SELECT 1")
    handler["default"].pool.rotate()
    deadline = time.monotonic() + 5
    while handler["replica"].pool.status().generation < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert handler["default"].pool.status().user == handler["replica"].pool.status().user
    assert handler["default"].pool.status().name == "default"


def test_queries_go_on_while_the_credential_changes(connect):
    """Threads that query, write and stream by server-side cursors, swaps every 0.3 s: no error."""
    handler = connect(vault={"MAX_SIZE": 4, "OVERLAP": 2})
    ask(handler["default"], "SELECT 1")
    stop, failures, done = threading.Event(), [], []

    def work():
        connection = handler["default"]
        while not stop.is_set():
            try:
                with connection.cursor() as cursor:
                    cursor.execute("UPDATE items SET name = %s WHERE id = 1", ["x"])
                with connection.chunked_cursor() as cursor:
                    cursor.execute("SELECT * FROM generate_series(1, 5)")
                    done.append(len(cursor.fetchall()))
                connection.close_if_unusable_or_obsolete()
            except Exception as error:  # noqa: BLE001 - all of them count
                failures.append(error)
            stop.wait(0.005)

    threads = [threading.Thread(target=work) for _ in range(3)]
    with swapping(handler["default"].pool) as generations:
        for thread in threads:
            thread.start()
        while len(generations) < 5:
            stop.wait(0.05)
        stop.set()
        for thread in threads:
            thread.join()

    assert not failures
    assert set(done) == {5}
    assert len(done) > 50
    assert len(handler["default"].pool._source.dropped) >= 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"VAULT": None}, "DATABASES['default'] has no section VAULT: add one, for example"),
        ({"USER": "app"}, "DATABASES['default']['USER'] cannot be used with VAULT"),
        ({"PASSWORD": "x"}, "DATABASES['default']['PASSWORD'] cannot be used with VAULT"),
        ({"OPTIONS": {"service": "x"}}, "DATABASES['default']['OPTIONS']['service'] cannot be used with VAULT"),
        ({"vault": {"CONNINFO": "dbname=x"}}, "DATABASES['default']['VAULT'] cannot say where the database is"),
        (
            {"OPTIONS": {"pool": {"kwargs": {}}}},
            "DATABASES['default']['OPTIONS']['pool'] cannot say where the database",
        ),
        ({"vault": {"MAXSIZE": 1}}, "DATABASES['default']['VAULT']: MAXSIZE is no setting: did you mean MAX_SIZE?"),
        ({"vault": {"MIN_SIZE": "x"}}, "DATABASES['default']['VAULT']: MIN_SIZE must be a whole number"),
        ({"OPTIONS": {"pool": {"min_size": 1}}}, "DATABASES['default']: min_size is in VAULT and in OPTIONS"),
        ({"OPTIONS": {"pool": {"maxsize": 1}}}, "DATABASES['default']['VAULT']: MAXSIZE is no setting: did you mean"),
    ],
)
def test_bad_settings_are_named(connect, monkeypatch, changes, text):
    """At the first use, and by `manage.py check` before."""
    handler = connect(**changes)
    with pytest.raises(ImproperlyConfigured) as caught:
        ask(handler["default"], "SELECT 1")
    monkeypatch.setattr(settings, "DATABASES", handler.settings)
    messages = check_databases()

    assert str(caught.value).startswith(text)
    assert [(message.id, message.msg) for message in messages] == [("vault_pool.E001", str(caught.value))]


def test_a_dynamic_role_that_would_own_tables_is_warned_of(shop, monkeypatch):
    """Without assume_role, migrations leave tables that belong to a role that ends."""
    vault = {"ROLE": "shop", "VAULT": Vault("https://vault", auth=Token("a token of nobody"))}
    database = {**section(shop), "VAULT": vault}
    monkeypatch.setattr(settings, "DATABASES", {"default": database})
    assert [message.id for message in check_databases()] == ["vault_pool.W001"]
    vault["ASSUME_ROLE"] = "owner"
    assert check_databases() == []


def test_dbshell_keeps_the_options_of_the_environment(monkeypatch):
    """The assumed role is added to PGOPTIONS, as it is to those of the pool's own sessions."""
    monkeypatch.setenv("PGOPTIONS", "-c search_path=shop")
    settings_dict = {"OPTIONS": {}, "VAULT": {"ASSUME_ROLE": "owner"}}
    _, env = DatabaseClient.settings_to_cmd_args_env(settings_dict, [])

    assert env["PGOPTIONS"] == "-c search_path=shop -c role=owner"


def test_checks_leave_names_alone(connect, monkeypatch):
    """A pool that is used is still found by its name after them."""
    handler = connect()
    pool = handler["default"].pool
    monkeypatch.setattr(settings, "DATABASES", handler.settings)
    assert check_databases() == []
    assert VaultPool.find("default") is pool
