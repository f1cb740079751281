"""
Faults by hand, under clients in a closed loop that do not pause after a failure; the outcome as one JSON object.

    python -m tests.faults revoke --server devserver|bao|vault --size 8 --times 20 [--run] [--assume]
    python -m tests.faults outage --server devserver|bao|vault --how hang|refuse [--run] [--assume]

While Vault is away in `outage`, its process is stopped: a Vault that is merely out of reach would go on revoking.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.clients import Clients, toll
from tests.fix_postgres import Database
from tests.fix_proxy import TcpProxy
from tests.fix_vault import VaultServer, running
from vault_pool import AppRole, DynamicRole, RenewalPolicy, Vault, VaultPool
from vault_pool.devserver.postgres import EmbeddedPostgres

THREADS = 8
_CREATE = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"


@dataclass
class Scene:
    """A database, a Vault, and what pools of its role are made of."""

    database: Database
    server: VaultServer

    def pool(self, *, address: str | None = None, **options: Any) -> VaultPool[Any]:
        """Return a pool that is not open."""
        login = self.server.approle(token_ttl="1h")
        auth = AppRole(login.role_id, login.secret_id, mount_point=login.mount_point)
        source = DynamicRole(
            "app", vault=Vault(address or self.server.address, auth=auth), mount_point=self.server.mount
        )
        return VaultPool(self.database.conninfo(), source=source, **options)


@contextmanager
def scene(kind: str, **role: Any) -> Iterator[Scene]:
    """Run PostgreSQL and the Vault that *kind* names; *role* says what its role is like."""
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres())
        database = Database(postgres)
        server = stack.enter_context(running(kind))
        stack.callback(server.close)
        stack.callback(database.drop)
        server.database_role(database, **role)
        database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 1000) n")
        yield Scene(database, server)


def until(condition: Any, seconds: float = 30.0) -> None:
    """Wait until *condition* holds; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to pass")
        time.sleep(0.005)


def revoke(options: argparse.Namespace) -> dict[str, Any]:
    """Revoke the lease in service, again and again, without a word."""
    # Without the limit that protects Vault: this many revocations are no normal life.
    policy = RenewalPolicy(requests_per_hour=360_000.0)
    more: dict[str, Any] = {"assume_role": "?"} if options.assume else {}
    # By grants of its own, a role loses its rights some milliseconds before it is dropped; by membership, with it.
    direct = [_CREATE, 'GRANT SELECT, INSERT, UPDATE ON items TO "{{name}}"'] if options.direct else None
    with scene(options.server, **({"creation_statements": direct} if direct else {})) as here:
        if options.assume:
            more = {"assume_role": here.database.group, "lookup_interval": 1.0}
        pool = here.pool(min_size=options.size, max_size=options.size, policy=policy, **more)
        windows, noticed = [], []
        with pool, Clients(pool, THREADS, run=options.run) as clients:
            for _ in range(options.times):
                begin = time.monotonic()
                number = pool.status().generation
                time.sleep(0.3)
                here.server.revoke(pool.status().lease_id)
                revoked = time.monotonic()
                until(lambda number=number: pool.status().generation > number)
                noticed.append(time.monotonic() - revoked)
                time.sleep(0.3)
                windows.append((begin, time.monotonic()))
        costs = [toll(clients.between(*window)) for window in windows]
        dark = [cost.dark for cost in costs if cost.failed]
        return {
            "server": options.server,
            "size": options.size,
            "threads": THREADS,
            "by": "run()" if options.run else "connection()",
            "assumed role": options.assume,
            "grants of its own": options.direct,
            "revocations": len(costs),
            "requests": len(clients.requests),
            "failed": len(clients.failed()),
            "failed per revocation, most": max(cost.failed for cost in costs),
            "failed though begun after the first error": sum(cost.late for cost in costs),
            "failures": dict(clients.failures()),
            "ms without service, median": _ms(statistics.median(dark)) if dark else None,
            "ms without service, most": _ms(max(dark)) if dark else None,
            "ms from the revocation to the successor, median": _ms(statistics.median(noticed)),
            "longest request ms": _ms(max(r.ended - r.made for r in clients.requests)),
            "left": [*here.server.leases(), *here.database.roles()],
            "ok": (
                all(cost.failed <= (0 if options.run or options.assume else options.size) for cost in costs)
                and not any(cost.late for cost in costs)
                and max(dark, default=0.0) < 0.5
            ),
        }


def stopped(server: VaultServer) -> list[int]:
    """Stop the process of *server*; return what has to be continued."""
    mark = "DevServer(" if server.kind == "devserver" else urlsplit(server.address).netloc
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _parent_of(int(entry.name), os.getpid()):
            line = (entry / "cmdline").read_bytes().split(b"\0")
            if line[0] != b"/bin/sh" and any(mark.encode() in word for word in line):
                found.append(int(entry.name))
    assert found, f"no process of {server} was found"
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    return found


def _parent_of(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return pid == ancestor


def outage(options: argparse.Namespace) -> dict[str, Any]:
    """Take Vault away for three lease durations, with every connection in use and one that breaks; bring it back."""
    with scene(options.server, default_ttl=f"{options.lease}s", max_ttl="1h") as here, ExitStack() as stack:
        address = urlsplit(here.server.address)
        proxy = stack.enter_context(TcpProxy(address.hostname or "", address.port or 0))
        more = {"assume_role": here.database.group} if options.assume else {}
        policy = RenewalPolicy(backoff_cap=5.0)
        pool = here.pool(
            address=f"http://{proxy.host}:{proxy.port}", min_size=4, max_size=4, policy=policy, max_lifetime=2.0, **more
        )
        with pool, Clients(pool, THREADS, run=options.run, breaking=True) as clients:
            time.sleep(1.0)
            away = time.monotonic()
            processes = stopped(here.server)
            if options.how == "refuse":
                proxy.refuse()
                proxy.cut()
            until(lambda: pool.status().phase == "lapsed")
            lapsed = time.monotonic()
            if options.run:
                # Who was using it is in flight: by connection() it would count.
                here.database.superuser_execute("SELECT pg_terminate_backend(%s)", [here.database.sessions()[0].pid])
            time.sleep(max(0.0, away + 3 * options.lease - time.monotonic()))
            number, sessions = pool.status().generation, len(here.database.sessions())
            back = time.monotonic()
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
            if options.how == "refuse":
                proxy.pass_through()
            until(lambda: pool.status().generation > number)
            recovered = time.monotonic()
            time.sleep(1.0)
        cost = toll([request for request in clients.requests if request.ended >= back])
        during = [request for request in clients.between(away, back) if request.error is not None]
        allowed = 0 if options.run or options.assume else 4
        return {
            "server": options.server,
            "how": options.how,
            "by": "run()" if options.run else "connection()",
            "assumed role": options.assume,
            "lease s": options.lease,
            "away s": round(back - away, 1),
            "lapsed for s": round(back - lapsed, 1),
            "requests while away": len(clients.between(away, back)),
            "failed while away": len(during),
            "sessions at its return": sessions,
            "failed at its return": cost.failed,
            "failed though begun after the first error": cost.late,
            "failures": dict(clients.failures()),
            "seconds to recover": round(recovered - back, 2),
            "ms without service at its return": _ms(cost.dark),
            "ok": not during and cost.failed <= allowed and not cost.late and recovered - back <= 5.5,
        }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument("--verbose", action="store_true")
    commands = parser.add_subparsers(dest="fault", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--server", choices=["devserver", "bao", "vault"], default="devserver")
    shared.add_argument("--size", type=int, default=8, help="of the pool; there are 8 threads")
    shared.add_argument("--run", action="store_true", help="by pool.run() instead of pool.connection()")
    shared.add_argument("--assume", action="store_true", help="with an assumed role")
    command = commands.add_parser("revoke", parents=[shared], help=revoke.__doc__)
    command.add_argument("--times", type=int, default=20)
    command.add_argument("--direct", action="store_true", help="with grants of its own instead of by membership")
    command.set_defaults(do=revoke)
    command = commands.add_parser("outage", parents=[shared], help=outage.__doc__)
    command.add_argument("--how", choices=["hang", "refuse"], default="hang")
    command.add_argument("--lease", type=int, default=5, help="its duration in seconds")
    command.set_defaults(do=outage)
    options = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if options.verbose else logging.ERROR,
        format="%(asctime)s.%(msecs)03d %(name)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    seen = options.do(options)
    seen["load average"] = round(os.getloadavg()[0], 1)
    print(json.dumps(seen, indent=2))  # noqa: T201 - it is a command
    return 0 if seen["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
