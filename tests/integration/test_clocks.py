"""
Time that leaps, and a process that was not there while it passed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.clients import Clients
from tests.role_source import RoleSource
from vault_pool import RenewalPolicy, VaultPool
from vault_pool.runtime.scheduler import Runtime


@pytest.fixture
def source(database):
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")
    return RoleSource(database)


class LeapingClock:
    """A clock that can be moved ahead, as CLOCK_BOOTTIME is while a machine sleeps."""

    def __init__(self):
        self.ahead = 0.0

    def now(self):
        return time.monotonic() + self.ahead


@pytest.fixture
def clock():
    return LeapingClock()


@pytest.fixture
def pool(no_leaks, database, source, clock):
    """A pool of *source*'s roles, whose leases are measured by *clock*."""
    policy = RenewalPolicy(requests_per_hour=360_000.0)
    pool = VaultPool(database.conninfo(), source=source, policy=policy, min_size=2, max_size=4, runtime=Runtime(clock))
    with pool:
        yield pool


@pytest.fixture
def starve(pool):
    """Return a function that keeps the scheduler thread from doing anything until what it returns is set."""
    gates = []

    def starve():
        reached, gate = threading.Event(), threading.Event()
        gates.append(gate)
        pool._runtime.call_at(0.0, lambda: (reached.set(), gate.wait(30)))
        assert reached.wait(10)
        return gate

    yield starve
    for gate in gates:
        gate.set()


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def test_after_a_leap_nobody_is_given_a_session_whose_role_is_gone(pool, source, clock, starve):
    """The machine slept for longer than the lease, Vault did not; the scheduler has not looked at the clock yet."""
    gate = starve()
    source.take(pool.status().user)
    clock.ahead += 2 * source.duration
    with Clients(pool, 4) as clients:
        until(lambda: pool._current is None)
        gate.set()
        until(lambda: clients.done > 50)
    assert not clients.failed(), clients.failures()
    assert pool.status().generation == 2


def test_a_starved_scheduler_costs_a_question_a_second(pool, source, clock, starve):
    """The role is still there: everybody is served, and the question is not asked at each checkout."""
    gate = starve()
    clock.ahead += 2 * source.duration
    asked, late = [], pool._tenant.late
    pool._tenant.late = lambda generation: (asked.append(generation), late(generation))
    with Clients(pool, 2) as clients:
        until(lambda: clients.done > 200)
    assert not clients.failed(), clients.failures()
    assert 1 <= len(asked) <= 10
    gate.set()
    until(lambda: pool.status().generation == 2)


STOPPED = """
import json, sys, time
from tests.clients import Clients, toll
from vault_pool import DynamicRole, Token, Vault, VaultPool
given = json.load(sys.stdin)
source = DynamicRole("app", vault=Vault(given["address"], auth=Token(given["token"])), mount_point=given["mount"])
with VaultPool(given["conninfo"], source=source, min_size=2, max_size=4) as pool:
    with Clients(pool, 8, run=given["run"]) as clients:
        while clients.done < 50:
            time.sleep(0.01)
        print("ready", flush=True)
        generation = pool.status().generation
        while pool.status().generation == generation:
            time.sleep(0.01)
        done = clients.done
        while clients.done < done + 50:
            time.sleep(0.01)
cost = toll(clients.requests)
print(json.dumps({"failed": cost.failed, "late": cost.late, "failures": dict(clients.failures())}))
"""


# What Vault it is makes no difference here.
@pytest.mark.parametrize("vault_process", ["devserver"], indirect=True)
@pytest.mark.parametrize("run", [False, True], ids=["connection", "run"])
def test_a_process_that_was_stopped_for_longer_than_its_lease(vault_server, database, run):
    """Vault has dropped its role meanwhile: that costs at most what was in flight, and with run() nothing."""
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")
    vault_server.database_role(database, default_ttl="1s", max_ttl="1h")
    given = {
        "address": vault_server.address,
        "token": vault_server.root_token,
        "mount": vault_server.mount,
        "conninfo": database.conninfo(),
        "run": run,
    }
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with child:
        child.stdin.write(json.dumps(given))
        child.stdin.close()
        assert child.stdout.readline() == "ready\n"
        (role,) = database.roles()
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: role not in database.roles())
        os.kill(child.pid, signal.SIGCONT)
        seen = json.loads(child.stdout.readline())
    assert child.returncode == 0
    assert seen["failed"] <= (0 if run else 4), seen
    assert seen["late"] == 0
