"""
Applications of `examples/` behind real servers, and clients that ask them over HTTP.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import sql
from typing_extensions import Self

from tests.fix_postgres import Database
from tests.fix_vault import VaultServer

EXAMPLES = Path(__file__).parents[1] / "examples"
_SERVES = re.compile(r"generation (\d+) serves as")


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def environment(server: VaultServer, database: Database, **more: str) -> dict[str, str]:
    """Return what the example applications read: where the database and Vault are, and the role `shop`."""
    group = sql.Identifier(database.group)
    database.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(group))
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONUNBUFFERED": "1",
        "DB_HOST": database.server.host,
        "DB_PORT": str(database.server.port),
        "DB_NAME": database.name,
        "DB_CONNINFO": database.conninfo(),
        "DB_ROLE": "shop",
        "DB_MOUNT_POINT": server.mount,
        "DB_OWNER": database.group,
        "VAULT_ADDR": server.address,
        "VAULT_TOKEN": server.root_token,
        # So that rotations can be counted.
        "LOG_LEVEL": "INFO",
        **more,
    }


@dataclass
class Served:
    """A server that runs: its process, where it listens, and what it has written."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def text(self) -> str:
        """Return what it has logged."""
        return self.log.read_text(errors="replace")

    def rotations(self) -> int:
        """Return how many generations were replaced, in all of its processes."""
        return sum(int(number) > 1 for number in _SERVES.findall(self.text()))

    def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Return the status and the answer, read as JSON where it is that."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(body)
        return answer.status, body


@contextlib.contextmanager
def served(command: Sequence[str], folder: Path, log: Path, port: int, variables: dict[str, str]) -> Iterator[Served]:
    """Run *command*, which listens at *port*, in *folder*, until its end by SIGTERM, which has to be a clean one."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    server = Served(process, port, log)
    try:
        _wait_until_it_answers(server)
        yield server
        process.send_signal(signal.SIGTERM)
        process.wait(40)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_it_answers(server: Served) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError):
            status, answer = server.ask("/whoami")
            assert status == 200, f"{answer}\n{server.text()[-3000:]}"
            return
        time.sleep(0.1)
    raise AssertionError(f"the server did not answer: {server.text()[-3000:]}")


@dataclass
class Clients:
    """
    HTTP clients in a closed loop, each on a connection that is kept alive; every answer and every error is counted.
    """

    port: int
    paths: Sequence[str] = ("/whoami", "/items", "+/items", "/stream")
    threads: int = 8
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    backends: dict[int, set[int]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=[n], daemon=True) for n in range(self.threads)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        turn = number
        while not self._stop.is_set():
            turn += 1
            path = self.paths[turn % len(self.paths)]
            try:
                connection.request("POST" if path[0] == "+" else "GET", path.lstrip("+"))
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                with self._lock:
                    self.errors[f"{type(error).__name__}: {error}"] += 1
                self._stop.wait(0.05)
                continue
            with self._lock:
                self.statuses[answer.status] += 1
                if path == "/whoami" and answer.status == 200:
                    told = json.loads(body)
                    self.backends.setdefault(told["backend"], set()).add(told["pid"])
        connection.close()

    @property
    def bad(self) -> int:
        """How many answers were not 2xx."""
        return sum(count for status, count in self.statuses.items() if not 200 <= status < 300)
