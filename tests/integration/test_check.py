"""
`vault-pool check`, as an administrator calls it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def check(vault_server, database):
    """Return a function that runs the command with settings in the environment, and a role named shop."""
    vault_server.database_role(database, "shop")
    # What this process has of its own must not decide.
    own = ("VAULT_", "BAO_", "PG")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment |= {
        "VAULT_ADDR": vault_server.address,
        "VAULT_TOKEN": vault_server.root_token,
        "VAULT_POOL_MOUNT_POINT": vault_server.mount,
        "VAULT_POOL_CONNINFO": database.conninfo(),
    }

    def run(*arguments):
        command = [sys.executable, "-m", "vault_pool", "check", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    return run


def test_the_settings_are_tried(check, vault_server, database):
    """It logs in, rotates if asked, tells who it was, and leaves neither lease nor role."""
    found = check("role=shop", f"assume_role={database.group}", "--rotate")
    assert found.returncode == 0, found.stderr
    first, rest = found.stdout.split(" is logged in, acting as ")
    assert first.startswith(f"{vault_server.mount}/creds/shop: v-")
    assert rest.startswith(f"{database.group}, for ")
    assert ", after v-" in rest

    status = json.loads(check("role=shop", "--json").stdout)
    assert (status["generation"], status["phase"]) == (1, "active")
    assert vault_server.leases() == []
    assert database.roles() == []


@pytest.mark.parametrize("vault_process", ["devserver"], indirect=True)
@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("role=nobody", 1, "nobody"),
        ("rolle=hush-hush", 2, "did you mean role=…?"),
        ("xyzzy=hush-hush", 2, "`vault-pool settings` lists them"),
        ("max_size=many", 1, "VAULT_POOL_MAX_SIZE"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(check, given, code, said):
    """Without a traceback, and without the value of what is no setting."""
    found = check(given, *(() if given.startswith("role=") else ("role=shop",)))
    assert found.returncode == code
    assert said in found.stderr
    assert "hush-hush" not in found.stdout + found.stderr
    assert "Traceback" not in found.stderr
