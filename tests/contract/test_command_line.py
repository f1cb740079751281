"""
The command lines of OpenBao and Vault work with the development server.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.contract.servers import find_binary
from vault_pool.devserver import DevServer

pytestmark = pytest.mark.integration


@pytest.fixture(params=[("bao", "openbao"), ("vault", "vault")], ids=lambda one: one[0])
def command(request, database, tmp_path):
    """A function that runs the command line against a development server with a database, and returns its output."""
    name, flavor = request.param
    binary = find_binary(name)
    if binary is None:
        pytest.skip(f"no `{name}` on PATH nor in VAULT_POOL_TEST_VAULT_BIN")
    with DevServer(flavor=flavor) as server:
        server.enable_database(database.conninfo(user=database.admin.user, password=database.admin.password))
        server.add_role("app", in_role=database.group)
        server.add_policy("app", 'path "database/creds/app" { capabilities = ["read"] }')

        def run(*arguments: str, token: str | None = None) -> str:
            environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
            for brand in ("BAO", "VAULT"):
                environment[f"{brand}_ADDR"] = server.address
                environment |= {f"{brand}_TOKEN": token} if token else {}
            done = subprocess.run(
                [binary, *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        run.server = server
        yield run


def test_a_lease_lives_by_the_command_line(command, database):
    """login, read, lease renew, lease lookup and lease revoke do what they do with the real server."""
    root = command.server.root_token
    command("login", "-no-print", root)
    made = json.loads(command("read", "-format=json", "database/creds/app"))
    assert database.roles() == [made["data"]["username"]]
    renewed = json.loads(command("lease", "renew", "-format=json", "-increment=600", made["lease_id"]))
    assert renewed["lease_duration"] == 600
    assert 598 <= json.loads(command("lease", "lookup", "-format=json", made["lease_id"]))["data"]["ttl"] <= 600
    command("lease", "revoke", "-sync", made["lease_id"])
    assert database.roles() == []


def test_a_machine_logs_in_by_the_command_line(command):
    """`write auth/approle/login` gives a token that reads credentials and renews itself."""
    login = command.server.add_approle("app", ["app"], token_ttl="10m")
    said = command(
        "write", "-format=json", "auth/approle/login", f"role_id={login.role_id}", f"secret_id={login.secret_id}"
    )
    token = json.loads(said)["auth"]["client_token"]
    assert json.loads(command("read", "-format=json", "database/creds/app", token=token))["data"]["username"]
    assert json.loads(command("token", "renew", "-format=json", token=token))["auth"]["client_token"] == token
    command("token", "revoke", "-self", token=token)


def test_an_operator_sets_up_by_the_command_line(command):
    """Mounts, policies, the status and key/value secrets are managed as usual."""
    root = command.server.root_token
    assert "secret/" in command("secrets", "list", token=root)
    command("secrets", "enable", "-path=kv1", "kv", token=root)
    command("kv", "put", "kv1/a", "user=u", token=root)
    assert "u" in command("kv", "get", "-field=user", "kv1/a", token=root)
    command("kv", "put", "secret/a", "user=u", token=root)
    assert "u" in command("kv", "get", "-field=user", "secret/a", token=root)
    assert "app" in command("policy", "list", token=root)
    assert json.loads(command("status", "-format=json"))["sealed"] is False
