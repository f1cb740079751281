"""
Every example of the documentation, carried out as it stands there.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg import sql

from tests.docs.pages import Block, blocks
from tests.fix_vault import development_server

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if any(block.runs for block in blocks(path)))
NOT_RUN = [
    (path, block) for path in (ROOT / "docs").rglob("*.md") for block in blocks(path) if block.reason is not None
]


@contextlib.contextmanager
def world(postgres, folder):
    """
    A PostgreSQL and a Vault under the names that the pages use; yield the environment that makes it so.

    Whatever host a page names, libpq goes to this PostgreSQL: PGHOSTADDR goes before names. What a page makes in it,
    databases and roles, is dropped after it.
    """
    before = {kind: set(found) for kind, found in _inventory(postgres)}
    place = {"PGHOSTADDR": postgres.host, "PGPORT": str(postgres.port), "PGSSLMODE": "disable"}
    commands = folder / "bin"
    commands.mkdir()
    if shutil.which("vault") is None and (bao := shutil.which("bao")):
        (commands / "vault").symlink_to(bao)
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    try:
        with development_server(place) as server:
            yield (
                server,
                {
                    **os.environ,
                    **place,
                    "PATH": path,
                    "HOME": str(folder),
                    "PYTHONPATH": str(ROOT),
                    "PYTHONWARNINGS": "error",
                    "VAULT_ADDR": server.address,
                    "VAULT_TOKEN": server.root_token,
                    "WORLD_SUPERUSER_PASSWORD": postgres.password,
                },
            )
            server.api("PUT", "sys/leases/revoke-force/database", {})
    finally:
        _drop_what_came(postgres, before)


def _drop_what_came(postgres, before):
    with postgres.connect(autocommit=True) as conn:
        for kind, found in _inventory(postgres):
            for name in sorted(set(found) - before[kind]):
                force = sql.SQL(" WITH (FORCE)" if kind == "DATABASE" else "")
                conn.execute(sql.SQL("DROP {} IF EXISTS {}{}").format(sql.SQL(kind), sql.Identifier(name), force))


def _inventory(postgres):
    with postgres.connect(autocommit=True) as conn:
        for kind, query in (
            ("DATABASE", "SELECT datname FROM pg_database"),
            ("ROLE", "SELECT rolname FROM pg_roles"),
        ):
            yield kind, [name for (name,) in conn.execute(query)]


def _uses_the_command_line(page):
    return any(block.runs and re.search(r"^vault ", block.code, re.MULTILINE) for block in blocks(page))


def shop(postgres, server, environment):
    """Prepare what the tutorial prepares: the database `shop`, its role in Vault, and a login for the application."""
    password = secrets.token_urlsafe(16)
    with postgres.connect(autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE vault_admin LOGIN CREATEROLE PASSWORD {}").format(sql.Literal(password)))
        conn.execute("CREATE ROLE app_rw")
        conn.execute("GRANT app_rw TO vault_admin WITH ADMIN OPTION")
        conn.execute("CREATE DATABASE shop OWNER vault_admin")
    with postgres.connect(autocommit=True, dbname="shop") as conn:
        conn.execute("CREATE TABLE items (id bigint PRIMARY KEY, name text)")
        conn.execute("INSERT INTO items VALUES (1, 'tea')")
        conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON items TO app_rw")
    server.ask("POST", "sys/mounts/database", {"type": "database"})
    server.ask(
        "POST",
        "database/config/shop",
        {
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "*",
            "connection_url": "postgresql://{{username}}:{{password}}@db.example.com/shop",
            "username": "vault_admin",
            "password": password,
        },
    )
    create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_rw;"
    server.ask(
        "POST",
        "database/roles/shop",
        {"db_name": "shop", "creation_statements": [create], "default_ttl": "1h", "max_ttl": "24h"},
    )
    rules = (
        'path "database/creds/shop" { capabilities = ["read"] }\npath "sys/leases/revoke" { capabilities = ["update"] }'
    )
    server.ask("PUT", "sys/policies/acl/shop", {"policy": rules})
    server.ask("POST", "sys/auth/approle", {"type": "approle"})
    server.ask("POST", "auth/approle/role/shop", {"token_policies": ["shop"], "token_ttl": "1h"})
    environment["VAULT_ROLE_ID"] = server.ask("GET", "auth/approle/role/shop/role-id")["data"]["role_id"]
    environment["VAULT_SECRET_ID"] = server.ask("POST", "auth/approle/role/shop/secret-id", {})["data"]["secret_id"]
    del environment["VAULT_TOKEN"]


@pytest.mark.integration
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_a_page_does_what_it_says(page, postgres, tmp_path):
    """Its examples run in order, in an empty folder, and leave no lease."""
    empty = "<!-- begins with an empty world -->" in page.read_text()
    if _uses_the_command_line(page) and not (shutil.which("vault") or shutil.which("bao")):
        pytest.skip("the page uses the command line of Vault: no `vault` and no `bao` on PATH")
    folder = tmp_path / "page"
    folder.mkdir()
    with world(postgres, tmp_path) as (server, environment):
        if not empty:
            shop(postgres, server, environment)
        done = subprocess.run(
            [sys.executable, "-m", "tests.docs.pages", page],
            check=False,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        assert server.leases("database") == []


@pytest.mark.parametrize(("page", "block"), NOT_RUN, ids=[f"{path.stem}-{block.line}" for path, block in NOT_RUN])
def test_what_is_not_run_says_why(page, block: Block):
    """A reason of a few words, for the reader of the source."""
    assert len(block.reason.split()) >= 3
