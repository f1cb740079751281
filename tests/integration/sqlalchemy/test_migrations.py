"""
Flask-SQLAlchemy, Flask-Migrate and Alembic's own generated environment, by the URL and the environment alone.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fix_vault import VaultServer, development_server
from tests.served import EXAMPLES, environment

pytest.importorskip("flask_migrate", reason="Flask-Migrate is not installed")


@pytest.fixture(scope="module")
def vault():
    with development_server() as server:
        yield server


@pytest.fixture
def variables(vault, database):
    """The environment of an application whose tables belong to the database's group."""
    server = VaultServer(vault.kind, vault.address, vault.root_token)
    server.database_role(database, "shop")
    yield environment(
        server,
        database,
        VAULT_POOL_ROLE="shop",
        VAULT_POOL_MOUNT_POINT=server.mount,
        VAULT_POOL_ASSUME_ROLE=database.group,
        VAULT_POOL_MIN_SIZE="1",
    )
    server.close()


def run(variables, folder, *arguments):
    """Run a module of Python in *folder*, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.timeout(240)
def test_flask_migrate_upgrades_as_one_user_after_the_other(variables, database):
    """`flask db upgrade` has a dynamic user of its own each time; the table belongs to the assumed role."""
    folder = EXAMPLES / "flask_sqlalchemy_shop"
    for revision in ("0001", "0002"):
        run(variables, folder, "flask", "--app", "app", "db", "upgrade", revision)
        assert database.roles() == []

    assert database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'things'") == [(database.group,)]
    assert database.execute("SELECT count(name) FROM things") == [(0,)]


@pytest.mark.timeout(240)
def test_alembics_own_environment_needs_nothing_but_the_url(variables, database, tmp_path):
    """`alembic init` as it comes, with the URL in alembic.ini: autogenerate and upgrade work."""
    run(variables, tmp_path, "alembic", "init", "migrations")
    place = f"{database.server.host}:{database.server.port}/{database.name}"
    settings = tmp_path / "alembic.ini"
    lines = [
        f"sqlalchemy.url = postgresql+psycopg://{place}?plugin=vault_pool"
        if line.startswith("sqlalchemy.url")
        else line
        for line in settings.read_text().splitlines()
    ]
    settings.write_text(os.linesep.join(lines))
    run(variables, tmp_path, "alembic", "revision", "-m", "first")
    run(variables, tmp_path, "alembic", "upgrade", "head")

    assert database.roles() == []
    assert database.execute("SELECT count(*) FROM alembic_version") == [(1,)]
