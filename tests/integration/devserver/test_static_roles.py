"""
Static roles on a real PostgreSQL, whose passwords a development server rotates, by a clock set by hand.
"""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from vault_pool.devserver import DevServer, ManualClock

CREDS = "database/static-creds/st"


@pytest.fixture
def user(database):
    """A login role of the test's own."""
    name = f"st_{database.name}"
    with database.connect(database.admin, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'first'").format(sql.Identifier(name)))
        yield name
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


@pytest.fixture
def start(database):
    """`start(flavor)` gives a server with a database, on a manual clock."""
    servers = []

    def run(flavor="openbao"):
        server = DevServer(flavor=flavor, clock=ManualClock(1_800_000_000.25), listen=False)
        server.start()
        servers.append(server)
        server.enable_database(database.conninfo(), user=database.admin.user, password=database.admin.password)
        return server

    yield run
    for server in servers:
        server.close()


def ask(server, method, path, status=200, **body):
    got, answer = server.request(method, path, body or None, server.root_token)
    assert got == status, answer
    return answer


def creds(server):
    return ask(server, "GET", CREDS)["data"]


def accepts(database, user, password):
    try:
        psycopg.connect(database.conninfo(user=user, password=password)).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_rotation_comes_with_the_tick_after_its_time(start, database, user):
    """vault: ticks every 5 s; with a period of 7 s every 10 s, the old password good and `ttl` 0 in between."""
    server = start()
    ask(server, "POST", "database/static-roles/st", 204, db_name="postgresql", username=user, rotation_period="7s")
    first = creds(server)
    assert accepts(database, user, first["password"])
    server.step(8)
    late = creds(server)
    assert (late["password"], late["ttl"]) == (first["password"], 0)
    server.step(2.5)
    second = creds(server)
    assert second["password"] != first["password"]
    assert not accepts(database, user, first["password"])
    assert accepts(database, user, second["password"])
    assert second["last_vault_rotation"] > first["last_vault_rotation"]
    server.step(100)
    assert creds(server)["password"] != second["password"]


def test_what_could_not_be_rotated_is_tried_again_with_the_same_password(start, database, user):
    """After 10 s at the earliest; meanwhile the old password is shown."""
    server = start()
    ask(server, "POST", "database/static-roles/st", 204, db_name="postgresql", username=user, rotation_period="1h")
    first = creds(server)["password"]
    with database.connect(database.admin, autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(sql.Identifier(user), sql.Identifier(f"{user}_x")))
        text = ask(server, "POST", "database/rotate-role/st", 500)["errors"][0]
        assert "unable to finish rotating credentials; retries will continue in the background" in text
        waiting = server.core.mounts.get("database/").engine._static._roles["st"].next_password
        admin.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(sql.Identifier(f"{user}_x"), sql.Identifier(user)))
    assert creds(server)["password"] == first
    server.step(9)
    assert creds(server)["password"] == first
    server.step(6)
    assert creds(server)["password"] == waiting
    assert accepts(database, user, waiting)


def test_a_stale_read_shows_the_password_of_before(start, database, user):
    """The database has the new one already: the race between the two halves of a rotation, made to last."""
    server = start()
    ask(server, "POST", "database/static-roles/st", 204, db_name="postgresql", username=user, rotation_period="1h")
    old = creds(server)
    ask(server, "POST", "database/rotate-role/st", 204)
    with server.inject("stale-static", times=1):
        stale = creds(server)
        assert (stale["password"], stale["last_vault_rotation"]) == (old["password"], old["last_vault_rotation"])
        assert creds(server)["password"] != old["password"]
    assert not accepts(database, user, stale["password"])


def test_a_schedule_says_when_and_its_ttl_leaps_before_the_rotation(start, database, user):
    """vault >= 1.15: `ttl` counts to the next instant at once, the password follows with the tick."""
    server = start("vault-1.17")
    role = {"db_name": "postgresql", "username": user}
    ask(server, "POST", "database/static-roles/st", 204, **role, rotation_schedule="*/5 * * * *", rotation_window=3600)
    first = creds(server)
    assert (first["rotation_schedule"], first["rotation_window"]) == ("*/5 * * * *", 3600)
    assert "rotation_period" not in first
    server.step(first["ttl"] + 0.8)
    leapt = creds(server)
    assert leapt["ttl"] > 290
    server.step(5)
    assert creds(server)["password"] != first["password"]
    both = "mutually exclusive fields rotation_period and rotation_schedule were both specified; only one of them "
    said = ask(server, "POST", "database/static-roles/x", 400, **role, rotation_schedule="* * * * *", rotation_period=9)
    assert said["errors"][0].startswith(both)
    said = ask(server, "POST", "database/static-roles/x", 400, **role, rotation_schedule="hourly")
    assert said["errors"][0].startswith("could not parse rotation_schedule: expected exactly 5 fields")
    said = ask(server, "POST", "database/static-roles/x", 400, **role)
    assert said["errors"] == ["one of rotation_schedule or rotation_period must be provided to create a static account"]


def test_a_role_that_is_deleted_is_rotated_no_more(start, database, user):
    """The user keeps the last password, also when the mount goes."""
    server = start()
    ask(server, "POST", "database/static-roles/st", 204, db_name="postgresql", username=user, rotation_period="5s")
    password = creds(server)["password"]
    ask(server, "DELETE", "sys/mounts/database", 204)
    server.step(60)
    assert accepts(database, user, password)
