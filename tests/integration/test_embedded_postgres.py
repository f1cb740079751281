"""
The embedded PostgreSQL: closed to everybody without the password, and gone without a trace.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import vault_pool
from vault_pool.devserver import postgres_programs
from vault_pool.devserver.postgres import EmbeddedPostgres

pytestmark = pytest.mark.integration

VERSIONS = (16, 18)
AS_ROOT = os.geteuid() == 0
IMPORTABLE = {**os.environ, "PYTHONPATH": str(Path(vault_pool.__file__).parents[1]), "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module", params=VERSIONS)
def server(request):
    """One server per version for all tests that only look."""
    with EmbeddedPostgres(request.param) as running:
        yield running


def processes(folder: Path) -> list[str]:
    """Command lines that mention *folder*."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def wait_until(condition, seconds=20.0):
    """Wait for another process to do its part."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.fixture
def open_folder(monkeypatch):
    """A temporary folder of this test alone, that everybody may pass through."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


@pytest.fixture
def reachable():
    """The oldest programs of the wheel, where `nobody` can run them without a copy."""
    programs, _ = postgres_programs.find_programs(None, min(VERSIONS))
    if AS_ROOT and not all(above.stat().st_mode & stat.S_IXOTH for above in programs.parents):
        pytest.skip(f"an ordinary user cannot reach {programs}")
    return programs


def test_it_runs_the_version_that_was_asked_for(server):
    """The server is of the major version asked for, and says so."""
    with server.connect() as connection:
        assert connection.info.server_version // 10000 == server.version


def test_the_newest_version_is_the_default():
    """Without a version, the newest one of the wheel runs."""
    assert postgres_programs.find_programs(None, None)[1] == max(VERSIONS)


@pytest.mark.parametrize("way", ["tcp", "socket"])
@pytest.mark.parametrize("password", ["wrong", None])
def test_a_login_without_the_password_is_refused(server, way, password):
    """SCRAM is enforced, over TCP and over the socket."""
    host = server.host if way == "tcp" else str(server.folder)
    with pytest.raises(psycopg.OperationalError, match="password"):
        server.connect(host=host, password=password, passfile="/dev/null")


@pytest.mark.parametrize("way", ["tcp", "socket"])
def test_a_login_with_the_password_succeeds(server, way):
    """The superuser gets in over TCP and over the socket."""
    with server.connect(host=server.host if way == "tcp" else str(server.folder)) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("postgres",)


def test_no_line_of_pg_hba_trusts(server):
    """Every rule of pg_hba.conf asks for SCRAM."""
    with server.connect() as connection:
        assert connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall() == [
            ("scram-sha-256",)
        ]


def test_it_listens_on_loopback_only(server):
    """No other interface is bound."""
    with server.connect() as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)


def test_the_folder_is_closed_to_others(server):
    """The folder and the data have mode 0700."""
    for folder in (server.folder, server.folder / "data"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="only root can choose another user")
def test_started_by_root_it_runs_as_nobody(server):
    """The server's processes do not belong to root."""
    postmaster = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    assert Path(f"/proc/{postmaster}").stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_the_password_is_nowhere_to_be_read(server):
    """Neither a file, nor a command line, nor the repr shows the password."""
    assert server.password not in repr(server)
    assert not [line for line in processes(server.folder) if server.password in line]
    for path in server.folder.rglob("*"):
        if path.is_file():
            assert server.password.encode() not in path.read_bytes(), path


def test_a_failed_statement_does_not_reach_the_log(server):
    """A CREATE ROLE that fails leaves no password in the log."""
    with server.connect() as connection, pytest.raises(psycopg.errors.SyntaxError):
        connection.execute("CREATE ROLE x LOGIN PASSWORD 'hush-hush' nonsense")
    assert "hush-hush" not in (server.folder / "log").read_text()


def test_url_and_conninfo_agree_on_difficult_words():
    """Characters that mean something in a URL survive it."""
    server = EmbeddedPostgres()
    words = {"user": "a@b:c", "password": "p/w?%&' \\", "dbname": "d#e"}
    url, conninfo = conninfo_to_dict(server.url(**words)), conninfo_to_dict(server.conninfo(**words))
    assert {key: url[key] for key in words} == words == {key: conninfo[key] for key in words}


def test_nothing_is_left_after_stop(no_leaks, open_folder):
    """Stopping ends open sessions, every process, and the folder; and stopping twice is harmless."""
    server = EmbeddedPostgres()
    server.start()
    folder = server.folder
    session = server.connect()
    server.stop()
    server.stop()
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    session.close()
    assert not folder.exists()
    assert not processes(folder)
    assert not list(open_folder.iterdir())


def test_it_can_be_started_again_after_stop():
    """A stopped server starts anew, with an empty folder."""
    server = EmbeddedPostgres()
    for _ in range(2):
        with server:
            server.connect().close()


def test_a_second_start_is_refused(server):
    """Starting what runs would lose the first server."""
    with pytest.raises(RuntimeError, match="started already"):
        server.start()


def test_restart_keeps_port_and_data():
    """After a restart the same URL finds the same tables."""
    with EmbeddedPostgres() as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE kept ()")
        url = server.url()
        server.restart()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_paused_it_answers_nobody_and_resumed_it_goes_on():
    """An open session gets its answer only after resume; a new login is not answered either."""
    with EmbeddedPostgres() as server, server.connect() as connection:
        answered = threading.Event()

        def ask():
            connection.execute("SELECT 1")
            answered.set()

        server.pause()
        asking = threading.Thread(target=ask)
        asking.start()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            server.connect(connect_timeout=2)
        assert not answered.is_set()
        server.resume()
        asking.join(10)
        assert answered.is_set()


def test_a_paused_server_can_be_stopped():
    """Stop needs no resume."""
    server = EmbeddedPostgres()
    server.start()
    folder = server.folder
    server.pause()
    server.stop()
    assert not processes(folder)
    assert not folder.exists()


def test_a_start_that_fails_leaves_nothing_and_shows_the_log(monkeypatch, no_leaks):
    """The error of a failed start ends with what the server said, and no folder or process stays."""
    folders = []

    def make_folder(account):
        folders.append(postgres_programs.make_folder(account))
        return folders[-1]

    monkeypatch.setattr("vault_pool.devserver.postgres.make_folder", make_folder)
    with pytest.raises(RuntimeError, match="max_connections"):
        EmbeddedPostgres(max_connections=-1).start()
    assert not folders[0].exists()
    assert not processes(folders[0])


def test_a_taken_port_is_replaced_by_another(monkeypatch):
    """When another program took the chosen port, the next attempt has another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        real, calls = EmbeddedPostgres._configure, []

        def configure(self, settings):
            calls.append(settings)
            real(self, f"port = {taken.getsockname()[1]}\n" if len(calls) == 2 else settings)

        monkeypatch.setattr(EmbeddedPostgres, "_configure", configure)
        with EmbeddedPostgres() as server:
            assert len(calls) == 3
            server.connect().close()


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_it_ends_with_the_process_that_started_it(end):
    """A process that forgets to stop it, or is killed, leaves no server and no folder."""
    script = (
        "import sys; from vault_pool.devserver.postgres import EmbeddedPostgres as E\n"
        "server = E(); server.start(); print(server.folder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=IMPORTABLE
    ) as process:
        folder = Path(process.stdout.readline().strip())
        assert processes(folder)
        if end == "kill":
            process.send_signal(signal.SIGKILL)
        process.communicate()
    wait_until(lambda: not folder.exists() and not processes(folder))


def test_other_programs_can_be_used_when_the_versions_agree(reachable):
    """`bin_dir` is used instead of the wheel, and a version that it does not have is refused."""
    with EmbeddedPostgres(bin_dir=reachable) as server:
        assert server.version == min(VERSIONS)
    with pytest.raises(RuntimeError, match="no PostgreSQL 18"):
        EmbeddedPostgres(18, bin_dir=reachable).start()


def test_without_the_wheel_the_error_names_the_extra(monkeypatch):
    """Who lacks the wheel reads what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"vault_pool\[dev\]"):
        EmbeddedPostgres().start()


@pytest.mark.skipif(not AS_ROOT, reason="only root can be locked in")
def test_programs_that_nobody_can_reach_are_copied(tmp_path, monkeypatch):
    """An installation below a closed folder works, and the folder stays closed."""
    programs, _ = postgres_programs.find_programs(None, 18)
    closed = tmp_path / "closed"
    package = closed / "site" / programs.parent.parent.name
    package.parent.mkdir(parents=True)
    package.symlink_to(programs.parent.parent)
    libraries = programs.parent.parent.with_name(f"{package.name}.libs")
    package.with_name(libraries.name).symlink_to(libraries)
    closed.chmod(0o700)
    found = (package / programs.parent.name / programs.name, 18)
    monkeypatch.setattr("vault_pool.devserver.postgres.find_programs", lambda *_: found)
    with EmbeddedPostgres() as server:
        assert (server.folder / package.name / programs.parent.name / "bin" / "postgres").exists()
        server.connect().close()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    with pytest.raises(RuntimeError, match="initdb"):
        EmbeddedPostgres(bin_dir=found[0]).start()


@pytest.mark.skipif(not AS_ROOT, reason="only root can be locked in")
def test_a_temporary_folder_that_nobody_can_reach_is_left_alone(tmp_path, monkeypatch):
    """Another temporary folder is chosen, and no permission is changed."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    with EmbeddedPostgres() as server:
        assert closed not in server.folder.parents
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not list(closed.iterdir())


@pytest.mark.skipif(not AS_ROOT, reason="everything here runs without root already")
def test_it_runs_without_root(reachable):
    """An ordinary user can start it as well: the server is then theirs."""
    nobody = pwd.getpwnam("nobody").pw_uid
    script = (
        "import os; from vault_pool.devserver.postgres import EmbeddedPostgres\n"
        f"os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})\n"
        "with EmbeddedPostgres() as server:\n"
        "    server.connect().close(); print(os.stat(server.folder / 'data').st_uid)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=IMPORTABLE)
    assert done.stdout.strip() == str(nobody), done.stderr
