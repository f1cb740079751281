"""
Chaos: a pool under load between two networks that break, for hours if need be, and by a schedule that a seed decides.

    python -m tests.chaos --server devserver|bao|vault --seed 1 --minutes 10

Every failed request is held against the promises: each fault says which requests it may cost (none, or those that were
in flight when it struck; by `pool.run` none where it was the credential that was lost), and whatever fails besides is a
violation. The run prints how often each fault really struck,
shown by what it did; one that never struck fails the run, as does a thread, session, lease or role that is left.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import Error

from tests.fix_postgres import Database
from tests.fix_proxy import TcpProxy
from tests.fix_vault import VaultServer, running
from tests.load import Load
from vault_pool import AppRole, DynamicRole, Vault, VaultPool, events
from vault_pool.devserver.postgres import EmbeddedPostgres

logger = logging.getLogger("tests.chaos")

MIN_SIZE, MAX_SIZE, OVERLAP = 2, 8, 2
TTL, MAX_TTL = 12, 24
#: A fault of the way to Vault ends before the lease can, whenever it begins: Vault goes on, and would drop the role.
AT_EASE = TTL / 6
#: Between the end of a fault and the next one, in seconds: what it broke has to be whole again by then.
CALM = 2.0
#: For how long after the end of a fault its victims may still be met with: a dead idle connection, a late answer.
GRACE = 1.0
SLOW_MS = 150.0


@dataclass(frozen=True)
class Strike:
    """One fault: at *at* seconds from the start, for *seconds*."""

    at: float
    fault: str
    seconds: float


@dataclass(frozen=True)
class Fault:
    """
    A way to break something: `begin` does it and returns what shows that it struck, `end` mends it.

    *costs*: whether requests in flight may fail; *costs_run*: whether those of `pool.run` may, too, whose COMMIT may
    have been on its way. *longest* is how long it lasts at most, in seconds; 0: it has no duration.
    """

    begin: Callable[[Scene], int]
    end: Callable[[Scene], int]
    costs: bool
    costs_run: bool = False
    longest: float = 0.0


def schedule(seed: int, seconds: float, faults: dict[str, Fault], pace: float = 1.0) -> list[Strike]:
    """
    Return what strikes when: round after round of all faults in a random order, one at a time, at least one round.

    *pace* shortens the faults and what lies between them.
    """
    draw = random.Random(seed)
    at, strikes = CALM * pace, []
    while True:
        for name in draw.sample(sorted(faults), len(faults)):
            longest = faults[name].longest * pace
            length = draw.uniform(longest / 3, longest)
            if at + length + CALM > seconds and len(strikes) >= len(faults):
                return strikes
            strikes.append(Strike(at, name, length))
            at += length + (CALM + draw.random()) * pace


class Runners(Load):
    """The same load by `pool.run`."""

    def _run_fast(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.pool.run(self.request)
            except Error as error:
                self._fail("run", error, began)
            else:
                with self._lock:
                    self.finished.append(time.monotonic())
            self._stop.wait(self.think)


@dataclass
class Scene:
    """What there is to be broken, and what was seen of it."""

    server: VaultServer
    database: Database
    to_vault: TcpProxy
    to_database: TcpProxy
    pool: VaultPool[Any]
    seen: list[tuple[float, events.Event]]
    load: Load
    runners: Runners

    def noted(self, *kinds: type[Any], since: float) -> int:
        """How many events of *kinds* there have been since *since*."""
        return sum(at >= since and isinstance(event, kinds) for at, event in self.seen)

    def noted_soon(self, *kinds: type[Any], since: float, seconds: float = 10.0) -> int:
        """The same, waiting for the first one."""
        deadline = time.monotonic() + seconds
        while not self.noted(*kinds, since=since) and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.noted(*kinds, since=since)


_FAILED = (events.RotationFailed, events.RenewalFailed)


def _provoked(break_it: Callable[[Scene], object]) -> Callable[[Scene], int]:
    """Break a way, and have something sent on it; it struck where that failed."""

    def begin(scene: Scene) -> int:
        since = time.monotonic()
        break_it(scene)
        scene.pool.rotate(wait=False)
        return scene.noted_soon(*_FAILED, since=since, seconds=15.0)

    return begin


def _delayed(way: Callable[[Scene], TcpProxy]) -> Callable[[Scene], int]:
    def begin(scene: Scene) -> int:
        proxy, since = way(scene), time.monotonic()
        proxy.delay_ms = SLOW_MS
        scene.pool.rotate(wait=False)
        return scene.noted_soon(events.PoolReplaced, since=since)

    return begin


def _mended(way: Callable[[Scene], TcpProxy]) -> Callable[[Scene], int]:
    def end(scene: Scene) -> int:
        way(scene).delay_ms = 0.0
        way(scene).pass_through()
        return 0

    return end


def _refuse(proxy: TcpProxy) -> None:
    proxy.refuse()
    proxy.cut()


def _revoke(scene: Scene) -> int:
    since, lease_id = time.monotonic(), scene.pool.status().lease_id
    if lease_id is None:
        return 0
    scene.server.revoke(lease_id)
    return scene.noted_soon(events.LeaseLost, events.PoolReplaced, since=since)


def _rotate(scene: Scene) -> int:
    since = time.monotonic()
    scene.pool.rotate(wait=False)
    return scene.noted_soon(events.PoolReplaced, since=since)


def _pause(scene: Scene) -> int:
    """Nobody revokes while Vault stands still; when it goes on it drops the roles whose leases have ended meanwhile."""
    since = time.monotonic()
    scene.server.pause()
    scene.pool.rotate(wait=False)
    return scene.noted_soon(*_FAILED, since=since)


def _resume(scene: Scene) -> int:
    scene.server.resume()
    return 0


def _terminate(scene: Scene) -> int:
    user = scene.pool.status().user
    return 0 if user is None else scene.database.terminate(user)


def _stalled(scene: Scene) -> int:
    """Break the database's way so that nobody is told: it struck if something was out."""
    scene.to_database.deaf()
    return scene.to_database.open_connections


def _half_open(scene: Scene) -> int:
    return scene.to_database.half_open()


def _cut_half_open(scene: Scene) -> int:
    """After a while the network itself, or a keepalive, ends what is half open."""
    scene.to_database.cut()
    return 0


def _nothing(_: Scene) -> int:
    return 0


def _to_vault(scene: Scene) -> TcpProxy:
    return scene.to_vault


def _to_database(scene: Scene) -> TcpProxy:
    return scene.to_database


FAULTS = {
    "Vault refuses": Fault(_provoked(lambda s: _refuse(s.to_vault)), _mended(_to_vault), costs=False, longest=AT_EASE),
    "Vault hangs": Fault(_provoked(lambda s: s.to_vault.deaf()), _mended(_to_vault), costs=False, longest=AT_EASE),
    "Vault stands still": Fault(_pause, _resume, costs=True, longest=2.0 * TTL),
    "Vault's connections are cut": Fault(lambda s: s.to_vault.cut(), _nothing, costs=False),
    "Vault's connections are half open": Fault(lambda s: s.to_vault.half_open(), _nothing, costs=False),
    "Vault is slow": Fault(_delayed(_to_vault), _mended(_to_vault), costs=False, longest=AT_EASE),
    "PostgreSQL refuses": Fault(
        _provoked(lambda s: s.to_database.refuse()), _mended(_to_database), costs=False, longest=AT_EASE
    ),
    "PostgreSQL hangs": Fault(_stalled, _mended(_to_database), costs=False, longest=2.0),
    "PostgreSQL's connections are cut": Fault(lambda s: s.to_database.cut(), _nothing, costs=True, costs_run=True),
    "PostgreSQL's connections are half open": Fault(
        _half_open, _cut_half_open, costs=True, costs_run=True, longest=2.0
    ),
    "PostgreSQL is slow": Fault(_delayed(_to_database), _mended(_to_database), costs=False, longest=AT_EASE),
    "PostgreSQL ends all sessions": Fault(_terminate, _nothing, costs=True, costs_run=True),
    "the lease is revoked": Fault(_revoke, _nothing, costs=True),
    "rotated by hand": Fault(_rotate, _nothing, costs=False),
}


#: What a fault may lead to: the lease ends, and Vault drops the role before there can be another. Those in flight then
#: are what an outage may cost; by `pool.run` none.
LAPSE = "(a lease ended meanwhile)"
CONSEQUENCES = FAULTS | {LAPSE: Fault(_nothing, _nothing, costs=True)}


@dataclass
class Tally:
    """What one fault has done."""

    strikes: int = 0
    struck: int = 0
    excused: int = 0
    excess: int = 0
    back_after: list[float] = field(default_factory=list)


@dataclass
class Report:
    """The outcome of a run."""

    seed: int
    server: str
    requests: int
    failed: int
    tallies: dict[str, Tally]
    violations: list[str]
    left: dict[str, int]
    rotations: int

    @property
    def clean(self) -> bool:
        """Whether every promise was kept, and every fault struck."""
        return not (self.violations or any(self.left.values()) or self.silent)

    @property
    def silent(self) -> list[str]:
        """The faults that never struck."""
        return [name for name, tally in self.tallies.items() if not tally.struck]

    def __str__(self) -> str:
        lines = [f"{'fault':<40} strikes  struck  in flight  back after (median, worst)"]
        for name, tally in self.tallies.items():
            back = tally.back_after
            times = f"{statistics.median(back) * 1000:.0f} ms, {max(back) * 1000:.0f} ms" if back else "-"
            lines.append(f"{name:<40} {tally.strikes:>7} {tally.struck:>7} {tally.excused:>10}  {times}")
        lines.append(
            f"seed {self.seed}, {self.server}: {self.requests} requests, {self.failed} failed, "
            f"{self.rotations} rotations, {len(self.violations)} against the promises; left: {self.left}"
        )
        return "\n".join([*lines, *(f"  violation: {one}" for one in self.violations)])


@contextmanager
def scene(kind: str) -> Iterator[Scene]:
    """Set everything up: servers, proxies, a pool and its load."""
    seen: list[tuple[float, events.Event]] = []
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres())
        database = Database(postgres)
        server = stack.enter_context(running(kind))
        stack.callback(server.close)
        stack.callback(database.drop)
        server.database_role(database, default_ttl=f"{TTL}s", max_ttl=f"{MAX_TTL}s")
        login = server.approle(token_ttl="1h")
        host, _, port = server.address.removeprefix("http://").partition(":")
        to_vault = stack.enter_context(TcpProxy(host, int(port)))
        to_database = stack.enter_context(TcpProxy(postgres.host, postgres.port))
        auth = AppRole(login.role_id, login.secret_id, mount_point=login.mount_point)
        vault = Vault(f"http://{to_vault.host}:{to_vault.port}", auth=auth, timeout=1.0)
        pool: VaultPool[Any] = VaultPool(
            f"host={to_database.host} port={to_database.port} dbname={database.name} connect_timeout=2",
            source=DynamicRole("app", vault=vault, mount_point=server.mount),
            min_size=MIN_SIZE,
            max_size=MAX_SIZE,
            overlap=OVERLAP,
            on_event=lambda event: seen.append((time.monotonic(), event)),
        )
        load = Load(pool, fast=5, slow=2, slow_seconds=0.4, think=0.005)
        runners = Runners(pool, fast=2, slow=0, think=0.005)
        yield Scene(server, database, to_vault, to_database, pool, seen, load, runners)


def run(kind: str, seed: int, seconds: float, pace: float = 1.0) -> Report:
    """Live through the schedule of *seed*, and return what it came to."""
    threads = set(threading.enumerate())
    strikes = schedule(seed, seconds, FAULTS, pace)
    spans: list[tuple[float, float, str]] = []
    tallies = {name: Tally() for name in FAULTS}
    with scene(kind) as stage:
        with stage.pool, stage.load, stage.runners:
            start = time.monotonic()
            logger.info("the schedule begins")
            for strike in strikes:
                time.sleep(max(0.0, start + strike.at - time.monotonic()))
                spans.append(_strike(stage, strike, tallies[strike.fault]))
            time.sleep(GRACE + CALM * pace)
        _wait_for_orphans(stage)
        left = {
            "leases": len(stage.server.leases()),
            "roles": len(stage.database.roles()),
            "sessions": sum(session.user.startswith("v-") for session in stage.database.sessions()),
        }
        lapses = _lapses(stage)
        if lapses:
            tallies[LAPSE] = Tally(len(lapses), len(lapses))
        violations = _judge(stage.load, stage.runners, lapses + spans, tallies, start)
        rotations = stage.noted(events.PoolReplaced, since=0.0)
    left["threads"] = len(set(threading.enumerate()) - threads)
    requests = stage.load.requests + stage.runners.requests
    failed = len(stage.load.failed) + len(stage.runners.failed)
    return Report(seed, kind, requests, failed, tallies, violations, left, rotations)


def _lapses(stage: Scene) -> list[tuple[float, float, str]]:
    """From when to when no credential was in force, or none that was known to be."""
    spans: list[tuple[float, float, str]] = []
    lapsed_at = None
    for at, event in stage.seen:
        if isinstance(event, events.LeaseLapsed):
            lapsed_at = at
        elif isinstance(event, events.PoolReplaced) and lapsed_at is not None:
            spans.append((lapsed_at, at, LAPSE))
            lapsed_at = None
    return spans


def _wait_for_orphans(stage: Scene) -> None:
    """A credential whose answer was lost on its way belongs to nobody: it goes when its lease ends."""
    deadline = time.monotonic() + TTL + GRACE
    while (stage.server.leases() or stage.database.roles()) and time.monotonic() < deadline:
        time.sleep(0.1)


def _strike(stage: Scene, strike: Strike, tally: Tally) -> tuple[float, float, str]:
    fault, began = FAULTS[strike.fault], time.monotonic()
    tally.strikes += 1
    tally.struck += bool(fault.begin(stage))
    time.sleep(max(0.0, began + strike.seconds - time.monotonic()))
    fault.end(stage)
    return began, time.monotonic(), strike.fault


def _judge(
    load: Load, runners: Runners, spans: list[tuple[float, float, str]], tallies: dict[str, Tally], start: float
) -> list[str]:
    """Hold each failure against the fault that may have cost it, and each fault against its bound."""
    violations: list[str] = []
    costs: Counter[int] = Counter()
    for began, ended, words in sorted(load.failed + runners.failed):
        by_run = words.startswith("run: ")
        guilty = [
            number
            for number, (first, last, name) in enumerate(spans)
            if began <= last + GRACE
            and ended >= first
            and (CONSEQUENCES[name].costs_run if by_run else CONSEQUENCES[name].costs)
        ]
        if guilty:
            costs[guilty[-1]] += 1
        else:
            near = [
                f"{name} from {first - start:.1f} to {last - start:.1f} s"
                for first, last, name in spans
                if began <= last + CALM and ended >= first
            ]
            violations.append(f"{words} (begun at {began - start:.2f} s; near: {', '.join(near) or 'nothing'})")
    for number, (_, last, name) in enumerate(spans):
        tallies[name].excused += costs[number]
        # Those that were out, and idle ones that died with them and were handed out before that was noticed.
        if costs[number] > 2 * MAX_SIZE + OVERLAP:
            violations.append(f"{name}: {costs[number]} failed, more than there were connections")
        after = bisect_right(load.finished, last)
        if after < len(load.finished):
            tallies[name].back_after.append(load.finished[after] - last)
        else:
            violations.append(f"{name}: no request finished afterwards")
    return violations


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--server", choices=["devserver", "bao", "vault"], default="devserver")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if options.verbose else logging.ERROR,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )
    report = run(options.server, options.seed, options.minutes * 60)
    if options.json:
        known = {name: vars(tally) for name, tally in report.tallies.items()}
        sys.stdout.write(json.dumps({**vars(report), "tallies": known}, indent=2) + "\n")
    else:
        sys.stdout.write(f"{report}\n")
    if report.silent:
        sys.stdout.write(f"never struck: {', '.join(report.silent)}\n")
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
