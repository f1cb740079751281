"""
docker-compose.yml, brought up for real: the application under HTTP load while its credentials rotate, and taken down.

    python -m tests.compose --rotations 10 [--openbao]

Prints what it saw as JSON. It fails when an answer was no success, when a role is left once the application has
stopped, or when something is left of the project. Without a Docker engine it says so, and that is all.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fix_containers import free_port, no_docker

ROOT = Path(__file__).parents[1]
#: gunicorn's workers: each has a lease of its own.
WORKERS = 2
CLIENTS = 8
#: A renewal after 4 seconds meets max_ttl: a rotation every 4 seconds.
TIMES = {"LEASE_TTL": "6s", "LEASE_MAX_TTL": "8s"}
_STARTING = 120.0
_ROLES = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"


def command() -> list[str]:
    """Return `docker compose`, or `docker-compose` where only that is there."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise SystemExit("neither `docker compose` nor `docker-compose` is installed")


class Project:
    """The services of docker-compose.yml, under a name and at ports of their own."""

    def __init__(self, *, openbao: bool) -> None:
        self.ports = {"app": free_port()} | ({"app-openbao": free_port()} if openbao else {})
        self._name = f"vault-pool-smoke-{secrets.token_hex(4)}"
        self._command = [*command(), "-p", self._name, *(["--profile", "openbao"] if openbao else [])]
        self._environment = {**os.environ, **TIMES, "PORT": str(self.ports["app"])}
        self._environment["OPENBAO_PORT"] = str(self.ports.get("app-openbao", 0))

    def call(self, *arguments: str) -> str:
        """Run one of compose's commands; return what it wrote."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)}: {(done.stdout + done.stderr)[-4000:]}")
        return done.stdout

    def roles(self) -> int:
        """Count the roles that Vault made and nobody dropped."""
        ask = f'PGPASSWORD="$POSTGRES_PASSWORD" psql -h 127.0.0.1 -U postgres -tAc "{_ROLES}"'
        return int(self.call("exec", "-T", "postgres", "sh", "-c", ask))

    def left(self) -> list[str]:
        """Return the containers, volumes and networks that are there of this project."""
        label = f"label=com.docker.compose.project={self._name}"
        found = []
        for kind in (["ps", "-a"], ["volume", "ls"], ["network", "ls"]):
            listed = subprocess.run(
                ["docker", *kind, "-q", "--filter", label], capture_output=True, text=True, check=True
            )
            found += listed.stdout.split()
        return found


@dataclass
class Clients:
    """Closed-loop HTTP clients with keep-alive, on loopback; *users* are the database users that answered."""

    port: int
    answers: Counter[str] = field(default_factory=Counter)
    users: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, number: int) -> None:
        place = ("GET", "/") if number % 4 == 0 else ("POST", f"/orders/{number + 1}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with closing(connection):
            while not self._stop.is_set():
                try:
                    connection.request(*place)
                    with connection.getresponse() as response:
                        outcome, body = str(response.status), response.read()
                except (OSError, http.client.HTTPException) as error:
                    outcome, body = f"socket: {type(error).__name__}", b""
                    connection.close()
                with self._lock:
                    self.answers[outcome] += 1
                    if outcome == "200":
                        self.users.add(json.loads(body)["user"])
                # Two cores also run the servers.
                self._stop.wait(0.02)


def healthy(port: int) -> None:
    """Wait until the application at *port* says that it is."""
    deadline = time.monotonic() + _STARTING
    while time.monotonic() < deadline:
        with (
            suppress(OSError, http.client.HTTPException),
            closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection,
        ):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"nothing healthy at port {port} within {_STARTING:g} s")


def smoke(rotations: int, *, openbao: bool) -> dict[str, Any]:
    """Bring it up, load it for *rotations* of each worker, take it down; return what was seen."""
    project = Project(openbao=openbao)
    seen: dict[str, Any] = {"compose": project.call("version", "--short").strip(), "rotations": rotations}
    began = time.monotonic()
    try:
        project.call("up", "--build", "-d")
        for port in project.ports.values():
            healthy(port)
        seen["up_seconds"] = round(time.monotonic() - began, 1)
        clients = {service: Clients(port) for service, port in project.ports.items()}
        for each in clients.values():
            each.start()
        # Not faster than the leases' own times, and not much slower.
        deadline = time.monotonic() + 30 + rotations * 12
        enough = WORKERS * (rotations + 1)
        while time.monotonic() < deadline and any(len(each.users) < enough for each in clients.values()):
            time.sleep(0.5)
        for each in clients.values():
            each.stop()
        for service, each in clients.items():
            good = sum(count for outcome, count in each.answers.items() if outcome.startswith("2"))
            total = sum(each.answers.values())
            failed = {outcome: count for outcome, count in each.answers.items() if not outcome.startswith("2")}
            rotated = len(each.users) - WORKERS
            seen[service] = {"requests": total, "failed": total - good, "failures": failed, "rotations": rotated}
        project.call("stop", *project.ports)
        seen["roles_left"] = project.roles()
    except BaseException:
        with suppress(RuntimeError):
            print(project.call("logs", "--no-color", "--tail", "60"), file=sys.stderr)  # noqa: T201 - it is a command
        raise
    finally:
        project.call("down", "--volumes", "--remove-orphans")
    seen["left"] = project.left()
    return seen


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests.compose", description=__doc__)
    parser.add_argument("--rotations", type=int, default=10, help="of each of gunicorn's workers")
    parser.add_argument("--openbao", action="store_true", help="with the profile openbao besides")
    options = parser.parse_args()
    if reason := no_docker():
        print(f"not run: {reason}")  # noqa: T201 - it is a command
        return 0
    seen = smoke(options.rotations, openbao=options.openbao)
    print(json.dumps(seen, indent=2))  # noqa: T201
    services = [found for found in seen.values() if isinstance(found, dict)]
    enough = all(
        found["failed"] == 0 and found["rotations"] >= WORKERS * options.rotations
        for found in services
        if "failed" in found
    )
    return 0 if enough and seen["roles_left"] == 0 and not seen["left"] else 1


if __name__ == "__main__":
    sys.exit(main())
