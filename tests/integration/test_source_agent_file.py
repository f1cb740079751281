"""
Credentials from a file, a function and settings, in a real database: what changes is taken, and nobody notices.
"""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest
from psycopg import sql

from tests.integration.test_vault_ways import program
from tests.load import Load
from vault_pool import AgentFile, Callback, Fixed, PoolError, SourceError, VaultPool
from vault_pool.runtime import tenant


def until(condition, seconds=15.0):
    """Wait until *condition* holds; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def write(path, user, password):
    """Replace *path* as Vault Agent does."""
    fresh = path.with_name("fresh")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps({"username": user, "password": password}))
    fresh.replace(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "db.json"


def test_changes_under_load_fail_no_request(no_leaks, path, database):
    """Another password; half a file; no file; another user whose predecessor is dropped."""
    login = database.create_login()
    write(path, *login)
    source = AgentFile(path, interval=0.5)
    with (
        VaultPool(database.conninfo(), source=source, min_size=1, max_size=3, max_lifetime=1.0) as pool,
        Load(pool, fast=3, slow=1, slow_seconds=0.3, think=0.005) as load,
    ):
        database.execute(sql.SQL("ALTER ROLE {} PASSWORD 'another one'").format(sql.Identifier(login.user)))
        write(path, login.user, "another one")
        until(lambda: pool.status().generation == 2, 5)
        path.write_text('{"username": "half')
        until(lambda: "not, or not yet, a json file" in str(pool.status().last_error), 5)
        path.unlink()
        until(lambda: "No such file" in str(pool.status().last_error), 5)
        successor = database.create_login()
        write(path, *successor)
        until(lambda: pool.status().generation == 3 and not pool.status().retiring, 5)
        database.drop_role(login.user)
        time.sleep(0.3)
        assert (pool.status().user, pool.status().last_error) == (successor.user, None)

    assert not load.failures
    assert load.requests > 100
    assert database.roles() == [successor.user]


def test_a_file_that_comes_late_is_waited_for(no_leaks, path, database):
    """Within the timeout of open(); without it the error is the file's."""
    pool = VaultPool(database.conninfo(), source=AgentFile(path), min_size=1)
    with pytest.raises(SourceError, match="No such file"):
        pool.open(timeout=0.3)
    late = threading.Timer(0.5, write, [path, *database.create_login()])
    late.start()
    pool.open(timeout=10)
    with pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    pool.close()
    late.join()


def test_a_file_whose_credential_is_refused_changes_nothing(no_leaks, path, database, monkeypatch):
    """Until another is in it."""
    monkeypatch.setattr(tenant, "PROOF_TIMEOUT", 0.3)
    write(path, *database.create_login())
    with VaultPool(database.conninfo(), source=AgentFile(path), min_size=1) as pool:
        write(path, "nobody-knows-them", "pw")
        with pytest.raises(PoolError, match="nobody-knows-them"):
            pool.rotate(timeout=10)
        with pool.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        assert pool.status().generation == 1
        write(path, *database.create_login())
        until(lambda: pool.status().generation == 2)


AGENT = """
pid_file = "pid"
vault {{ address = "{address}" }}
auto_auth {{
  method "approle" {{
    mount_path = "auth/{mount}"
    config = {{
      role_id_file_path = "role_id"
      secret_id_file_path = "secret_id"
      remove_secret_id_file_after_reading = false
    }}
  }}
}}
template_config {{ static_secret_render_interval = "1s" }}
template {{
  contents = "{{{{ with secret \\"{path}\\" }}}}{{{{ .Data.data | toJSON }}}}{{{{ end }}}}"
  destination = "{home}/db.json"
  perms = "0600"
}}
"""


def test_what_a_real_agent_renders_is_taken(no_leaks, vault_server, database, path, caplog):
    """A secret that changes; under load."""
    if vault_server.kind not in ("bao", "vault"):
        pytest.skip(f"there is no agent of {vault_server.kind}")
    home, secret = path.parent, f"secret/data/{vault_server.mount}"
    login = vault_server.approle(vault_server.policy(f'path "{secret}" {{ capabilities = ["read"] }}'))
    (home / "role_id").write_text(login.role_id)
    (home / "secret_id").write_text(login.secret_id)
    config = AGENT.format(address=vault_server.address, mount=login.mount_point, home=home, path=secret)
    (home / "agent.hcl").write_text(config)

    def put(user, password):
        vault_server.ask("POST", secret, {"data": {"username": user, "password": password}})

    user, password = database.create_login()
    put(user, password)
    with (
        program(home, shutil.which(vault_server.kind), "agent", "-config=agent.hcl"),
        VaultPool(database.conninfo(), source=AgentFile(path, interval=0.5), min_size=1, max_lifetime=1.0) as pool,
        Load(pool, fast=2, slow=0, think=0.01) as load,
    ):
        database.execute(sql.SQL("ALTER ROLE {} PASSWORD 'another one'").format(sql.Identifier(user)))
        put(user, "another one")
        until(lambda: pool.status().generation == 2)
    assert not load.failures
    assert "can be read or written by everybody" not in caplog.text


def test_a_function_and_fixed_settings(no_leaks, database, monkeypatch):
    """The same application without Vault: a rotation by hand makes a generation of the same user."""
    login = database.create_login()
    monkeypatch.setenv("PGUSER", login.user)
    monkeypatch.setenv("PGPASSWORD", login.password)
    for source in (Fixed.from_env(), Fixed(*login), Callback(lambda: login)):
        with VaultPool(database.conninfo(), source=source, min_size=1) as pool:
            pool.rotate(timeout=10)
            with pool.connection() as conn:
                assert conn.execute("SELECT session_user").fetchone() == (login.user,)
            assert (pool.status().generation, pool.status().expires_in) == (2, None)
