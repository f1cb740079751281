"""
Forks by the hundred, run by hand: a parent that forks under load while its credentials rotate.

    python -m tests.forks --server devserver|bao|vault --forks 200
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from tests.children import Child, in_child, sockets
from tests.fix_postgres import Database
from tests.fix_vault import running
from tests.load import Load
from vault_pool import DynamicRole, Token, Vault, VaultPool
from vault_pool.devserver.postgres import EmbeddedPostgres
from vault_pool.events import PoolReplaced

#: What a child does before it ends: most close the pool, others leave their lease to lapse, or never use the pool.
ENDINGS = ("closes", "closes", "closes", "forks and closes", "exits", "is killed", "uses nothing")


def child(pool: VaultPool, ending: str, parents: set[str]) -> dict[str, Any]:
    """Serve three requests in a child, and say by which user; and whether a socket of the parent's was found."""
    shared = len(sockets() & parents)
    if ending == "uses nothing":
        return {"user": None, "shared": shared, "served": 0}
    for _ in range(3):
        with pool.connection(timeout=20) as conn:
            user = conn.execute("SELECT current_user::text FROM items LIMIT 1").fetchone()[0]
    more = in_child(lambda: child(pool, "closes", parents)) if ending == "forks and closes" else {"served": 0}
    if ending.endswith("closes"):
        pool.close()
    return {"user": user, "shared": shared, "served": 3 + more["served"]}


def fork_under_load(kind: str, forks: int, seed: int) -> dict[str, Any]:
    """Run the load, fork, and return what was seen."""
    chance = random.Random(seed)
    rotations: list[float] = []
    problems: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    users: set[str] = set()
    served = shared = 0
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres())
        database = Database(postgres)
        server = stack.enter_context(running(kind))
        stack.callback(server.close)
        stack.callback(database.drop)
        server.database_role(database, default_ttl="20s", max_ttl="40s")
        before = sockets()
        pool: VaultPool = VaultPool(
            database.conninfo(),
            source=DynamicRole(
                "app", vault=Vault(server.address, auth=Token(server.root_token)), mount_point=server.mount
            ),
            min_size=2,
            max_size=8,
            on_event=lambda event: isinstance(event, PoolReplaced) and rotations.append(time.monotonic()),
        )
        began = time.monotonic()
        with pool, Load(pool, fast=4, slow=2, slow_seconds=0.3, think=0.005) as load:
            for number in range(forks):
                if number % 5 == 2:
                    pool.rotate(wait=False)
                # Anywhere in the swap.
                time.sleep(chance.random() * 0.1)
                ending = chance.choice(ENDINGS)
                endings[ending] += 1
                ours = sockets(postgres.port) - before
                forked = Child(lambda ending=ending, ours=ours: child(pool, ending, ours))
                if ending == "is killed":
                    time.sleep(chance.random() * 0.1)
                    os.kill(forked.pid, signal.SIGKILL)
                    forked.end()
                    continue
                try:
                    said = forked.verdict()
                except AssertionError as error:
                    problems[f"{ending}: {str(error)[-300:]}"] += 1
                    continue
                served += said["served"]
                shared += said["shared"]
                users.add(said["user"])
        seconds = time.monotonic() - began
        users.discard(None)
        unclean = endings["exits"] + endings["is killed"]
        left = len(server.leases())
        deadline = time.monotonic() + 60
        while (server.leases() or database.roles()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return {
            "server": kind,
            "seconds": round(seconds, 1),
            "forks": forks,
            "endings": dict(endings),
            "parent: requests": load.requests,
            "parent: failed": sum(load.failures.values()),
            "parent: failures": dict(load.failures),
            "parent: rotations": len(rotations) - 1,
            "parent: longest checkout, ms": round(load.longest_checkout * 1000, 1),
            "children: requests served": served,
            "children: users": len(users),
            "children: failed": dict(problems),
            "children: sockets to PostgreSQL shared": shared,
            "leases of children that ended without closing": f"{left} of at most {unclean}",
            "leases left after they lapsed": len(server.leases()),
            "roles left after they lapsed": len(database.roles()),
        }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests.forks", description=__doc__)
    parser.add_argument("--server", choices=["devserver", "bao", "vault"], default="devserver")
    parser.add_argument("--forks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seen = fork_under_load(options.server, options.forks, options.seed)
    print(json.dumps(seen, indent=2))  # noqa: T201 - it is a command
    clean = (
        not seen["parent: failed"]
        and not seen["children: failed"]
        and not seen["children: sockets to PostgreSQL shared"]
    )
    return 0 if clean and not seen["leases left after they lapsed"] + seen["roles left after they lapsed"] else 1


if __name__ == "__main__":
    sys.exit(main())
