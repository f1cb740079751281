"""
Revocation without notice: what it costs, and what it does not.
"""

from __future__ import annotations

import time

import pytest

from tests.clients import Clients, toll
from vault_pool import DynamicRole, RenewalPolicy, Token, Vault, VaultPool
from vault_pool.events import LeaseLost


@pytest.fixture
def make_pool(vault_server, database):
    """Return a function that makes a pool of *vault_server*'s role `app` in *database*."""
    vault_server.database_role(database)
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")

    def make(**options):
        vault = Vault(vault_server.address, auth=Token(vault_server.root_token), timeout=5.0)
        source = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
        policy = RenewalPolicy(requests_per_hour=360_000.0)
        return VaultPool(database.conninfo(), source=source, policy=policy, **{"min_size": 1, "max_size": 4, **options})

    return make


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


@pytest.mark.parametrize("size", [4, 8])
def test_a_revocation_costs_at_most_what_was_in_flight(no_leaks, make_pool, vault_server, database, size):
    """8 threads without a pause: failed requests began before the first error was seen, and are no more than *size*."""
    seen = []
    pool = make_pool(min_size=size, max_size=size, on_event=seen.append)
    tolls = []
    with pool, Clients(pool) as clients:
        for number in range(2, 7):
            marker = time.monotonic()
            done = clients.done
            until(lambda done=done: clients.done > done + 100)
            vault_server.revoke(pool.status().lease_id)
            until(lambda number=number: pool.status().generation >= number)
            done = clients.done
            until(lambda done=done: clients.done > done + 100)
            tolls.append((marker, time.monotonic()))
    costs = [toll(clients.between(*window)) for window in tolls]

    assert all(cost.failed <= size and cost.late == 0 for cost in costs), (costs, clients.failures())
    assert sum(cost.failed for cost in costs) == len(clients.failed())
    assert max(cost.dark for cost in costs) < 5.0, costs
    assert [type(event) for event in seen].count(LeaseLost) == 5
    until(lambda: not database.roles() and not database.sessions())
    assert vault_server.leases() == []
