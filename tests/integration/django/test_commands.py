"""
manage.py of the example project, against a development Vault and a real PostgreSQL.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from psycopg import sql

from tests.fix_vault import VaultServer, development_server

PROJECT = Path(__file__).parents[3] / "examples" / "django_shop"
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def vault():
    with development_server() as server:
        yield server


@pytest.fixture
def project(vault, database):
    """Return the environment of the example project for a fresh database, whose group owns what it makes."""
    server = VaultServer(vault.kind, vault.address, vault.root_token)
    server.database_role(database, "shop")
    group = sql.Identifier(database.group)
    database.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(group))
    database.superuser_execute(sql.SQL("ALTER ROLE {} CREATEDB").format(group))
    yield {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "DB_HOST": database.server.host,
        "DB_PORT": str(database.server.port),
        "DB_NAME": database.name,
        "DB_ROLE": "shop",
        "DB_MOUNT_POINT": server.mount,
        "DB_OWNER": database.group,
        "VAULT_ADDR": server.address,
        "VAULT_TOKEN": server.root_token,
    }
    server.close()


def manage(project, *arguments, **more):
    """Run manage.py, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "manage.py", *arguments],
        cwd=PROJECT,
        env={**project, **more},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_one_user_migrates_and_the_next_alters(project, database):
    """Each command has a dynamic user of its own, dropped at its end; the tables belong to the assumed role."""
    manage(project, "migrate", "shop", "0001", "--verbosity=0")
    assert database.roles() == []
    manage(project, "migrate", "--verbosity=0")
    assert database.roles() == []

    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'shop_item'"
    assert database.execute(owner) == [(database.group,)]
    assert "price = models.DecimalField" in manage(project, "inspectdb", "shop_item")


def test_the_tests_of_a_project_have_their_database(project, database):
    """manage.py test makes, clones and drops test databases, in two processes that are forked."""
    output = manage(project, "test", "--parallel=2", "--noinput")

    assert "Ran 2 tests" in output
    assert "OK" in output
    assert database.superuser_execute("SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%%'") == []


@pytest.mark.skipif(shutil.which("psql") is None, reason="dbshell runs psql, and there is none on PATH")
def test_dbshell_logs_in_as_the_user_of_now(project, database):
    """psql gets the pool's user and password, and acts as the assumed role."""
    output = manage(project, "dbshell", "--", "--tuples-only", "-c", "SELECT session_user, current_user")
    session_user, _, current_user = output.strip().partition("|")

    assert session_user.strip().startswith("v-")
    assert current_user.strip() == database.group
    assert database.roles() == []


def test_check_names_bad_settings(project, tmp_path):
    """`manage.py check` reads DATABASES without asking anybody."""
    (tmp_path / "bad.py").write_text("from shop.settings import *\nDATABASES['default']['USER'] = 'app'\n")
    with pytest.raises(AssertionError) as caught:
        manage(project, "check", PYTHONPATH=str(tmp_path), DJANGO_SETTINGS_MODULE="bad", VAULT_ADDR="https://nowhere")

    assert "(vault_pool.E001) DATABASES['default']['USER'] cannot be used with VAULT" in str(caught.value)


def get(url, seconds=40.0):
    """Return the answer once there is one; while the server reloads there is none, or the error of one that ends."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), HTTP.open(url, timeout=5) as answer:
            return answer.read().decode()
        assert time.monotonic() < deadline, "no answer"
        time.sleep(0.1)


def test_runserver_reloads_and_leaves_nothing(project, database, tmp_path):
    """The parent of the autoreloader opens nothing; a child that is replaced, and the last one, leave no role."""
    shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    manage(project, "migrate", "--verbosity=0")
    # Ctrl-C is ignored by what a shell has started in the background; this is about one in front.
    heed = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", heed, "manage.py", "runserver", f"127.0.0.1:{port}", "--verbosity=0"],
        cwd=tmp_path / "project",
        env=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        first = get(f"http://127.0.0.1:{port}/whoami")
        time.sleep(1.1)  # the autoreloader compares times of files, once a second
        (tmp_path / "project" / "shop" / "views.py").touch()
        deadline = time.monotonic() + 20
        while get(f"http://127.0.0.1:{port}/whoami").partition(",")[0] == first.partition(",")[0]:
            assert time.monotonic() < deadline, "it did not reload"
            time.sleep(0.2)
        assert len(database.roles()) == 1
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    deadline = time.monotonic() + 10
    while database.roles() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert database.roles() == []
