"""
The load run by hand: a pool under load while its credentials rotate, against a server of choice.

    python -m tests.soak --server devserver|bao|vault --seconds 60 --delay-ms 0
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.fix_postgres import Database
from tests.fix_proxy import TcpProxy
from tests.fix_vault import running
from tests.load import Load, pauses
from vault_pool import AppRole, DynamicRole, Vault, VaultPool
from vault_pool.devserver.postgres import EmbeddedPostgres
from vault_pool.events import PoolReplaced

MIN_SIZE, MAX_SIZE = 2, 12


@contextmanager
def peak_sessions(database: Database) -> Iterator[list[int]]:
    """Sample how many sessions of created roles there are; the largest number is in the list."""
    peak = [0]
    stop = threading.Event()

    def sample() -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename LIKE 'v-%'"
        with database.connect(database.admin, autocommit=True) as conn:
            while not stop.wait(0.02):
                peak[0] = max(peak[0], conn.execute(query).fetchone()[0])

    thread = threading.Thread(target=sample, name="sampler")
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def soak(kind: str, seconds: float, delay_ms: float) -> dict[str, Any]:
    """Run the load and return what was seen."""
    rotations: list[float] = []

    def listen(event: Any) -> None:
        if isinstance(event, PoolReplaced):
            rotations.append(time.monotonic())

    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres())
        database = Database(postgres)
        server = stack.enter_context(running(kind))
        stack.callback(server.close)
        stack.callback(database.drop)
        port = postgres.port
        if delay_ms:
            port = stack.enter_context(TcpProxy(postgres.host, postgres.port, delay_ms=delay_ms)).port
        server.database_role(database, default_ttl="6s", max_ttl="12s")
        login = server.approle(token_ttl="1h")
        database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 1000) n")
        auth = AppRole(login.role_id, login.secret_id, mount_point=login.mount_point)
        pool: VaultPool = VaultPool(
            f"host={postgres.host} port={port} dbname={database.name}",
            source=DynamicRole("app", vault=Vault(server.address, auth=auth), mount_point=server.mount),
            min_size=MIN_SIZE,
            max_size=MAX_SIZE,
            on_event=listen,
        )
        with peak_sessions(database) as peak:
            with pool, Load(pool) as load:
                time.sleep(seconds)
            closed_at = time.monotonic()
        leases, roles = server.leases(), database.roles()
        left = [session for session in database.sessions() if session.user.startswith("v-")]
        measured = pauses(load.finished, rotations[1:])
        return {
            "server": kind,
            "seconds": seconds,
            "delay_ms": delay_ms,
            "requests": load.requests,
            "failed": sum(load.failures.values()),
            "failures": dict(load.failures),
            "rotations": len(rotations) - 1,
            "gap_ms": round(measured.gap * 1000, 1),
            "calm_ms": round(measured.quiet * 1000, 1),
            "ratio": round(measured.ratio, 2),
            "gaps_ms": [round(gap * 1000, 1) for gap in measured.rotations],
            "calms_ms": [round(gap * 1000, 1) for gap in measured.calm],
            "longest_checkout_ms": round(load.longest_checkout * 1000, 1),
            "peak_sessions": peak[0],
            "limit_sessions": MAX_SIZE + MIN_SIZE,
            "leases_left": len(leases),
            "roles_left": len(roles),
            "sessions_left": len(left),
            "close_seconds": round(time.monotonic() - closed_at, 2),
        }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--server", choices=["devserver", "bao", "vault"], default="devserver")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="added to each direction in front of PostgreSQL")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )
    seen = soak(options.server, options.seconds, options.delay_ms)
    print(json.dumps(seen, indent=2))  # noqa: T201 - it is a command
    clean = seen["failed"] == seen["leases_left"] == seen["roles_left"] == seen["sessions_left"] == 0
    return 0 if clean and seen["peak_sessions"] <= seen["limit_sessions"] else 1


if __name__ == "__main__":
    sys.exit(main())
