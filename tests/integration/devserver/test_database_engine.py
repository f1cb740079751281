"""
The database engine on a real PostgreSQL.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.fix_postgres import Login
from vault_pool.devserver import DevServer, DevServerError, ManualClock


def connect(server, database, **fields):
    server.enable_database(database.conninfo(), user=database.admin.user, password=database.admin.password)
    server.add_role("app", in_role=database.group, **fields)


def creds(server, name="app", token=None):
    status, answer = server.request("GET", f"database/creds/{name}", token=token or server.root_token)
    assert status == 200, answer
    return answer["lease_id"], Login(answer["data"]["username"], answer["data"]["password"])


def write(server, path, **body):
    return server.request("PUT", path, body, server.root_token)


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.fixture
def server(database) -> Iterator[DevServer]:
    with DevServer(listen=False) as server:
        connect(server, database)
        yield server


@pytest.fixture
def stepped(database) -> Iterator[DevServer]:
    with DevServer(listen=False, clock=ManualClock(time.time())) as server:
        connect(server, database, default_ttl=10, max_ttl=20)
        yield server


def test_a_read_makes_a_role_that_can_log_in(server, database):
    """The user exists in PostgreSQL, is a member of the group, and lapses five seconds after the lease."""
    _, login = creds(server)
    with database.connect(login) as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (1,)
    [(left,)] = database.superuser_execute(
        "SELECT extract(epoch FROM rolvaliduntil - now())::int FROM pg_roles WHERE rolname = %s", [login.user]
    )
    assert 3600 <= left <= 3605


def test_the_server_calls_itself_vault(server, database):
    """Its session has Vault's application name and the time zone UTC."""
    creds(server)
    [(name, zone)] = database.superuser_execute(
        "SELECT application_name, (SELECT setting FROM pg_settings WHERE name = 'TimeZone') FROM pg_stat_activity"
        " WHERE datname = %s AND application_name = 'vault'",
        [database.name],
    )
    assert name == "vault"
    assert zone


def test_a_revocation_drops_the_role_under_an_open_session(server, database):
    """The session stays, without rights; a new login is refused; twice does no harm."""
    lease_id, login = creds(server)
    with database.connect(login, autocommit=True) as connection:
        assert write(server, "sys/leases/revoke", lease_id=lease_id) == (204, None)
        assert database.roles() == []
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM items")
    with pytest.raises(psycopg.OperationalError):
        database.connect(login)
    assert write(server, "sys/leases/revoke", lease_id=lease_id) == (204, None)


def test_a_renewal_moves_valid_until(stepped, database):
    """ALTER ROLE … VALID UNTIL follows the lease."""
    lease_id, login = creds(stepped)
    query = "SELECT extract(epoch FROM rolvaliduntil)::int FROM pg_roles WHERE rolname = %s"
    [(before,)] = database.superuser_execute(query, [login.user])
    stepped.step(6)
    assert write(stepped, "sys/leases/renew", lease_id=lease_id)[1]["lease_duration"] == 10
    [(after,)] = database.superuser_execute(query, [login.user])
    assert after - before == 6
    stepped.step(9)
    assert database.roles() == [login.user]
    stepped.step(2)
    assert database.roles() == []


def test_a_lease_that_ends_by_itself_takes_its_role_along(server, database):
    """The background thread drops the role at the lease's end."""
    server.add_role("short", in_role=database.group, default_ttl=1)
    creds(server, "short")
    assert len(database.roles()) == 1
    wait_for(lambda: database.roles() == [])


def test_the_end_of_a_token_drops_its_roles(server, database):
    """Revoking a token answers at once; its roles go a moment later."""
    server.add_policy("app", 'path "database/creds/*" { capabilities = ["read"] }')
    token = server.add_token(["app"])
    creds(server, token=token)
    assert server.request("POST", "auth/token/revoke-self", token=token) == (204, None)
    wait_for(lambda: database.roles() == [])


@pytest.mark.parametrize(
    ("statements", "text"),
    [
        ([], "empty creation statements"),
        (
            ['CREATE ROLE "{{name}}" LOGIN; GRANT nosuchgroup TO "{{name}}";'],
            'failed to execute query: ERROR: role "nosuchgroup" does not exist (SQLSTATE 42704)',
        ),
        (
            ['CREATE ROLE "{{name}}" BOGUS'],
            'failed to execute query: ERROR: unrecognized role option "bogus" (SQLSTATE 42601)',
        ),
    ],
)
def test_failed_creation_statements_leave_nothing(server, database, statements, text):
    """All statements are one transaction; the error is Vault's."""
    server.add_role("bad", creation_statements=statements)
    status, answer = server.request("GET", "database/creds/bad", token=server.root_token)
    assert (status, answer["errors"]) == (500, [f"1 error occurred:\n\t* {text}\n\n"])
    assert database.superuser_execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%%-bad-%%'") == []


def test_the_administrators_password_is_masked_in_errors(server, database):
    """PostgreSQL repeats statements in its errors; Vault hides the password in them."""
    server.add_role("leaky", creation_statements=[f'CREATE ROLE "{{{{name}}}}" IN ROLE "{database.admin.password}"'])
    _, answer = server.request("GET", "database/creds/leaky", token=server.root_token)
    assert 'role "[password]" does not exist' in answer["errors"][0]
    assert database.admin.password not in str(answer)


def test_a_role_dropped_behind_the_servers_back(server, database):
    """It cannot be renewed, and its revocation succeeds."""
    lease_id, login = creds(server)
    database.drop_role(login.user)
    status, answer = write(server, "sys/leases/renew", lease_id=lease_id)
    assert status == 400
    assert f'ERROR: role "{login.user}" does not exist (SQLSTATE 42704)' in answer["errors"][0]
    assert write(server, "sys/leases/revoke", lease_id=lease_id)[0] == 204


def test_a_role_that_owns_a_table_is_not_dropped(postgres, database):
    """The lease stays and can be renewed; force drops the record and leaves the role."""
    database.execute(f"GRANT CREATE ON SCHEMA public TO {database.group}")
    with DevServer(listen=False) as server:
        # Only a superuser may revoke rights on a table of somebody else's, and so come as far as DROP ROLE.
        server.enable_database(postgres.conninfo(dbname=database.name))
        server.add_role("app", in_role=database.group)
        lease_id, login = creds(server)
        with database.connect(login, autocommit=True) as connection:
            connection.execute("CREATE TABLE mine (i int)")
        status, answer = write(server, "sys/leases/revoke", lease_id=lease_id)
        assert status == 400
        assert answer["errors"][0].endswith("cannot be dropped because some objects depend on it (SQLSTATE 2BP01)")
        assert write(server, "sys/leases/renew", lease_id=lease_id)[0] == 200
        assert server.request("PUT", "sys/leases/revoke-force/database", {}, server.root_token)[0] == 204
        assert database.roles() == [login.user]
        assert write(server, "sys/leases/lookup", lease_id=lease_id)[0] == 400


def test_custom_statements_and_blocks(server, database):
    """A DO block is one statement; custom renewal and revocation statements replace the default ones."""
    server.add_role(
        "custom",
        creation_statements=[
            "DO $$ BEGIN CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'; END $$;",
            f'GRANT {database.group} TO "{{{{name}}}}";',
        ],
        renew_statements=['ALTER ROLE "{{name}}" CONNECTION LIMIT 7'],
        revocation_statements=['ALTER ROLE "{{name}}" NOLOGIN'],
    )
    lease_id, login = creds(server, "custom")
    write(server, "sys/leases/renew", lease_id=lease_id)
    limit = "SELECT rolconnlimit, rolcanlogin FROM pg_roles WHERE rolname = %s"
    assert database.superuser_execute(limit, [login.user]) == [(7, True)]
    assert write(server, "sys/leases/revoke", lease_id=lease_id)[0] == 204
    assert database.superuser_execute(limit, [login.user]) == [(7, False)]
    database.drop_role(login.user)


def test_a_scram_verifier_in_place_of_the_password(database):
    """With password_authentication the database never sees the password, and the login works."""
    with DevServer(listen=False) as server:
        connect(server, database)
        config = {"password_authentication": "scram-sha-256"}
        assert write(server, "database/config/postgresql", **config)[0] == 204
        _, login = creds(server)
        database.connect(login).close()


def test_many_threads_read_at_once(server, database):
    """Each read makes another role; closing drops them all."""
    found = []
    threads = [threading.Thread(target=lambda: found.extend(creds(server) for _ in range(5))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(login.user for _, login in found) == database.roles()
    server.close()
    assert database.roles() == []


def test_closing_leaves_nothing_behind(no_leaks, database):
    """No thread, no descriptor, no session and no role; without the option the roles stay."""
    with DevServer() as server:
        connect(server, database)
        creds(server)
    assert database.roles() == []
    with DevServer(revoke_on_close=False) as server:
        connect(server, database)
        _, login = creds(server)
    assert database.roles() == [login.user]
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = 'vault'"
    wait_for(lambda: database.superuser_execute(sessions, [database.name]) == [(0,)])


def test_a_wrong_password_is_refused_without_repeating_it(database):
    """The text is the driver's; the password is in none of it."""
    wrong = "not-the-password"
    with (
        DevServer(listen=False) as server,
        pytest.raises(DevServerError, match="password authentication failed") as refusal,
    ):
        server.enable_database(database.conninfo(), user=database.admin.user, password=wrong)
    assert wrong not in str(refusal.value)
