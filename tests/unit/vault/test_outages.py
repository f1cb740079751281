"""
Each fault of Vault times each thing that is asked of it, for ten simulated minutes.

``python -m tests.unit.vault.test_outages`` prints the table.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass

import pytest

from tests.unit.runtime.stepped import SteppedRuntime
from tests.unit.runtime.test_watcher import Pool
from tests.unit.vault.fake_http import serve
from tests.unit.vault.fake_vault import BY_POLICY, DENIED, FakeVault
from vault_pool.core.machine import Phase
from vault_pool.core.policy import RenewalPolicy
from vault_pool.runtime.watcher import Watcher
from vault_pool.sources.dynamic_role import DynamicRole
from vault_pool.vault import transport
from vault_pool.vault.auth import AppRole
from vault_pool.vault.client import Vault

# Terms are of half an hour, so that what is due at two thirds of them falls into the outage, and their end after it.
TERM, BEGINS, LASTS = 1800, 1100.0, 600.0
SHORT = 0.02  # seconds of real time, after which a request that meets a fault is given up

POLICY = RenewalPolicy(jitter=0.0)
#: At the slowest pace a failure is followed by a pause of half of backoff_cap, since each draw is 0.5; quicker ones
#: come first. An attempt is three requests where surely nothing is done, and a doubtful one a lookup besides.
MOST_ATTEMPTS = LASTS / (POLICY.backoff_cap / 2) + math.log2(POLICY.backoff_cap / POLICY.backoff_base) + 1
REQUESTS = 4 * MOST_ATTEMPTS + 3 * LASTS / 60
ONE_STEP = POLICY.backoff_cap
#: A refused login is tried twice, and then not for 16 minutes: the lockout of Vault counts gaps.
LOCKOUT = 960.0

OPERATIONS = {
    "login": "auth/approle/login",
    "token renewal": "auth/token/renew-self",
    "read": "database/creds/app",
    "lease renewal": "sys/leases/renew",
    "revocation": "sys/leases/revoke",
    "lookup": "sys/leases/lookup",
}

FAULTS = {
    "sealed": (503, {}, {"errors": ["Vault is sealed"]}),
    "standby, redirects to a dead node": (307, {"Location": "http://127.0.0.1:1/v1/{path}"}, ""),
    "standby, no active node": (500, {}, {"errors": ["local node not active but active cluster node not found"]}),
    "performance standby (473)": (473, {}, ""),
    "412": (412, {}, {"errors": ["required index state not present"]}),
    "429": (429, {}, {"errors": ["rate limit quota exceeded"]}),
    "429, Retry-After": (429, {"Retry-After": "20"}, {"errors": ["rate limit quota exceeded"]}),
    "500": (500, {}, {"errors": ["1 error occurred:\n\t* internal error\n\n"]}),
    "502 of a proxy": (502, {}, "<html>"),
    "slow: done, answered too late": "slow",
    "hangs": "hang",
    "cut before it is done": None,
    "cut after it is done": "cut",
    "connection refused": "refuse",
    "403, the text of a dead token": DENIED,
    "403, a policy's": BY_POLICY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """
    What one fault did to one operation.

    *requests* were sent during the outage, *faulty* of them met the fault; all was well *recovered* seconds after its
    end. *served*: the pool never lost its credential.
    """

    operation: str
    fault: str
    requests: int
    faulty: int
    served: bool
    recovered: float


class Outage:
    """A Vault, a pool that lives by it, and a fault that is on for some paths."""

    def __init__(self, operation, fault, fake, http, runtime):
        self.operation, self.path, self.fault = operation, OPERATIONS[operation], FAULTS[fault]
        self.fake, self.runtime = fake, runtime
        self.on, self.requests, self.faulty = False, 0, 0
        http.answer = self.answer
        vault = Vault(http.address, auth=AppRole("the-role-id", "the-secret-id"), timeout=10)
        vault._clock = runtime.now
        self.keeper = vault._keeper
        self.send = self.keeper._transport._send
        self.keeper._transport._send = self.counted
        interval = 60.0 if operation == "lookup" else math.inf
        self.watcher = Watcher(DynamicRole("app", vault=vault), POLICY, runtime, interval)
        self.pool = Pool()

    def met(self, path):
        return self.on and path == self.path

    def counted(self, request, address, deadline):
        self.requests += self.on
        if self.met(request.path):
            self.faulty += 1
            if self.fault == "refuse":
                address = "http://127.0.0.1:1"
            if self.fault in ("slow", "hang"):
                deadline = time.monotonic() + SHORT
        return self.send(request, address, deadline)

    def answer(self, request):
        if not self.met(request.path):
            done = self.fake(request)
            # A standby does half of a renewal and says 500: the lookup is asked what is true.
            doubtful = self.on and self.operation == "lookup" and request.path == OPERATIONS["lease renewal"]
            return (500, {}, {"errors": ["storage is read-only"]}) if doubtful else done
        if self.fault in ("slow", "cut"):
            done = self.fake(request)
            time.sleep(SHORT * 3 if self.fault == "slow" else 0)
            return done if self.fault == "slow" else None
        if self.fault == "hang":
            time.sleep(SHORT * 3)
            return None
        if self.fault is None:
            return None
        status, headers, body = self.fault
        return status, {name: value.format(path=request.path) for name, value in headers.items()}, body

    def well(self):
        """Whether nothing failed lately, nothing that is due was put off, and no old lease is left."""
        states = (self.watcher.state, self.keeper._ledger.state)
        return not self.watcher.endings and all(
            state.failures == 0 and state.phase in (Phase.ACTIVE, Phase.FINAL) and state.due > self.runtime.now()
            for state in states
        )

    def run(self):
        self.watcher.attach(self.pool)
        self.runtime.settle()
        assert len(self.pool.installed) == 1
        self.runtime.advance(BEGINS)
        self.on = True
        if self.operation == "revocation":
            self.watcher.rotate()
            self.runtime.settle()
            self.pool.finishers.pop()()
        self.runtime.advance(LASTS)
        served = not self.pool.vacated and not self.pool.lapsed
        self.on = False
        ended = self.runtime.now()
        while not self.well() and self.runtime.now() < ended + 2 * LOCKOUT:
            self.runtime.advance(1.0)
            while self.pool.finishers:
                self.pool.finishers.pop()()
        return served, self.runtime.now() - ended


def cell(operation, fault):
    """Live through *fault* at *operation*."""
    runtime = SteppedRuntime()
    kinds = {
        "login": {"ttl": TERM, "renewable": False},
        "token renewal": {"ttl": TERM},
        "read": {"ttl": 36000, "lease": TERM},
        "lease renewal": {"ttl": 36000, "lease": TERM},
        "revocation": {"ttl": 36000},
        "lookup": {"ttl": 36000, "lease": TERM},
    }
    fake = FakeVault(runtime.now, **{"max_ttl": 36000, **kinds[operation]})
    fake.lease_renewable = operation != "read"
    with serve(fake) as http:
        outage = Outage(operation, fault, fake, http, runtime)
        try:
            served, recovered = outage.run()
        finally:
            outage.keeper._transport.close()
    return Cell(
        operation=operation,
        fault=fault,
        requests=outage.requests,
        faulty=outage.faulty,
        served=served,
        recovered=recovered,
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_the_pool_serves_on_whatever_is_wrong_with_vault(fault, monkeypatch):
    """No cell of the row loses its credential or asks too much, and each is well within one step after the end."""
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.0)
    for operation in OPERATIONS:
        found = cell(operation, fault)
        assert found.served, found
        assert found.faulty > 0, found
        assert found.requests <= REQUESTS * (2 if "redirects" in fault else 1), found
        locked = operation == "login" and fault.startswith("403")
        assert found.recovered <= (LOCKOUT if locked else ONE_STEP), found


def table():
    """Return the table as Markdown: requests of ten minutes, and seconds until all was well."""
    lines = ["| fault | " + " | ".join(OPERATIONS) + " |", "|---" * (len(OPERATIONS) + 1) + "|"]
    for fault in FAULTS:
        cells = [cell(operation, fault) for operation in OPERATIONS]
        texts = [f"{'serves' if each.served else 'LOST'}, {each.requests}, {each.recovered:.0f} s" for each in cells]
        lines.append(f"| {fault} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    transport._FIRST_PAUSE = 0.0
    sys.stdout.write(table() + "\n")
