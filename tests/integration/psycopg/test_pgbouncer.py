"""
PgBouncer between the pool and PostgreSQL.
"""

from __future__ import annotations

import contextlib
import shutil
import time

import psycopg
import pytest

from tests.load import Load
from tests.role_source import RoleSource
from tests.served import free_port
from tests.swapping import swapping
from vault_pool import VaultPool
from vault_pool.devserver.postgres_programs import Account, make_folder

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no pgbouncer on PATH")

# It asks the database for each user's SCRAM secret, so that a user whom Vault made a moment ago can log in, and logs in
# to the server by what the client has proven.
_SETTINGS = """
[databases]
{name} = host={host} port={server_port} auth_user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
auth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = $1
pool_mode = {mode}
default_pool_size = 10
"""


@pytest.fixture
def bouncer(shared_database):
    """Return a function that starts a PgBouncer and returns its port."""
    server = shared_database.server
    account = Account()  # like PostgreSQL, it refuses to run as root
    with contextlib.ExitStack() as started:

        def start(mode):
            port = free_port()
            folder = make_folder(account)
            started.callback(shutil.rmtree, folder)
            values = {
                "host": server.host,
                "server_port": server.port,
                "user": server.user,
                "name": shared_database.name,
            }
            files = {
                "ini": _SETTINGS.format(**values, port=port, folder=folder, mode=mode),
                "users": f'"{server.user}" "{server.password}"\n',
            }
            for name, text in files.items():
                (folder / name).write_text(text)
                account.own(folder / name)
            log = started.enter_context((folder / "log").open("w+b"))
            process = started.enter_context(account.start([PROGRAM, folder / "ini"], folder, output=log))
            started.callback(process.terminate)
            login = {"user": server.user, "password": server.password, "port": port}
            deadline = time.monotonic() + 30
            while True:
                with (
                    contextlib.suppress(psycopg.OperationalError),
                    shared_database.server.connect(**login, dbname=shared_database.name),
                ):
                    return port
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)

        yield start


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_rotations_behind_pgbouncer(shared_database, bouncer, mode):
    """
    No request fails. PgBouncer refuses `options`, so that the role is assumed by SET ROLE, which needs session pooling;
    with transaction pooling nothing may be prepared.
    """
    role = {"assume_role": shared_database.group} if mode == "session" else {}
    source = RoleSource(shared_database)
    with (
        VaultPool(
            shared_database.conninfo(port=bouncer(mode)),
            source=source,
            min_size=1,
            max_size=4,
            kwargs={"prepare_threshold": None},
            **role,
        ) as pool,
        Load(pool, fast=3, slow=1, slow_seconds=0.3, think=0.005) as load,
        swapping(pool) as generations,
    ):
        while len(generations) < 4:
            time.sleep(0.05)
        with pool.connection() as conn:
            me = conn.execute("SELECT current_user").fetchone()[0]
            assert me == (shared_database.group if role else pool.status().user)

    assert not load.failures
    assert load.requests > 30
    assert len(source.dropped) >= 4
