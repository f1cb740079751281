"""
The watcher, step by step: a source and pools of the test's own, no thread, no clock.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading

import pytest

from tests.unit.runtime.stepped import SteppedRuntime
from vault_pool.core.lease import Credential, Lease
from vault_pool.core.machine import Owner, Phase
from vault_pool.core.policy import RenewalPolicy
from vault_pool.errors import LeaseLost, ProofFailed, VaultDenied, VaultUnavailable
from vault_pool.events import LeaseRenewed, LeaseRevoked, PoolReplaced, RotationFailed
from vault_pool.runtime.hot_swap.doubt import Sign
from vault_pool.runtime.scheduler import Runtime
from vault_pool.runtime.watcher import Watcher, forget, watcher_of
from vault_pool.sources.base import Issued


class Source:
    """A source of leases; `fault` is raised by the next requests of the kinds named in `faulty`."""

    name, lane = "source", "vault"

    def __init__(self, duration=60.0, max_ttl=3600.0):
        self.duration, self.max_ttl = duration, max_ttl
        self.numbers = itertools.count(1)
        self.log, self.wakes = [], []
        self.fault, self.faulty = None, set()
        self.owners = {}
        self.attached = 0

    def _ask(self, kind, name):
        self.log.append((kind, name))
        if kind in self.faulty:
            raise self.fault

    def read(self, now):
        name = f"lease-{next(self.numbers)}"
        self._ask("read", name)
        return Issued(credential=Credential(f"user-of-{name}", "pw"), lease=Lease.issued(name, self.duration, now))

    def renew(self, lease, now):
        self._ask("renew", lease.lease_id)
        return lease.renewed(min(self.duration, lease.issued_at + self.max_ttl - now), now)

    def revoke(self, lease):
        self._ask("revoke", lease.lease_id)

    def owner(self, lease):
        return self.owners.get(lease.lease_id, Owner())

    def attach(self, runtime, wake):
        self.attached += 1

    def detach(self, wake):
        self.attached -= 1

    def asked(self, kind):
        return [name for what, name in self.log if what == kind]


class Pool:
    """A holder that keeps what was installed."""

    def __init__(self, name="pool"):
        self.lane = name
        self.installed, self.discarded, self.events, self.reports = [], [], [], []
        self.finishers, self.lapsed, self.ended = [], [], []
        self.deadline, self.known = math.inf, []
        self.vacated = self.inquiries = 0
        self.fault = None
        self.closed = False

    def prepare(self, credential):
        if self.fault is not None:
            raise self.fault
        return credential.user

    def discard(self, prepared):
        self.discarded.append(prepared)

    def install(self, prepared, on_finished):
        if self.closed:
            on_finished()
            return None
        self.installed.append(prepared)
        self.known.append(self.deadline)
        if len(self.installed) == 1:
            on_finished()
        else:
            self.finishers.append(on_finished)
        return len(self.installed)

    def vacate(self):
        self.vacated += 1

    def inquire(self):
        self.inquiries += 1

    def lapse(self, term):
        self.lapsed.append(term)

    def end(self, credential, *, revoked):
        self.ended.append((credential.user, revoked))

    def expect(self, deadline):
        self.deadline = deadline

    def report(self, error, *, attempt=False):
        self.reports.append(error)

    def emit(self, event):
        self.events.append(event)

    def kinds(self):
        return [type(event) for event in self.events]


@pytest.fixture
def runtime():
    return SteppedRuntime()


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def watcher(source, runtime):
    return Watcher(source, RenewalPolicy(jitter=0.0), runtime)


def test_a_lease_is_renewed_at_two_thirds_and_succeeded_at_max_ttl(source, runtime):
    """60 s at a time, 100 s in all: the second renewal, at 80 s, meets max_ttl, and a successor follows at once."""
    source.max_ttl = 100.0
    pool, watcher = Pool(), Watcher(source, RenewalPolicy(jitter=0.0), runtime)
    watcher.attach(pool)
    runtime.settle()
    assert source.log == [("read", "lease-1")]
    runtime.advance(39.9)
    assert source.asked("renew") == []
    runtime.advance(0.2)
    assert source.asked("renew") == ["lease-1"]
    runtime.advance(40.0)

    assert source.log == [("read", "lease-1"), ("renew", "lease-1"), ("renew", "lease-1"), ("read", "lease-2")]
    assert pool.installed == ["user-of-lease-1", "user-of-lease-2"]
    assert [PoolReplaced, LeaseRenewed, LeaseRenewed, PoolReplaced] == pool.kinds()
    assert [event.truncated for event in pool.events if isinstance(event, LeaseRenewed)] == [False, True]


def test_an_old_lease_is_revoked_when_its_last_connection_is_back(watcher, source, runtime):
    """Until then it is kept alive by renewing it."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    watcher.rotate()
    runtime.settle()
    runtime.advance(41.0)

    assert sorted(source.asked("renew")) == ["lease-1", "lease-2"]
    assert source.asked("revoke") == []
    pool.finishers.pop()()
    runtime.settle()
    assert source.asked("revoke") == ["lease-1"]
    assert watcher.endings == []
    assert LeaseRevoked in pool.kinds()


def test_one_request_at_a_time(watcher, source, runtime):
    """However often somebody asks for a rotation while one is on its way."""
    watcher.attach(Pool())
    runtime.decide()
    for _ in range(5):
        watcher.rotate()
        watcher.wake()
        runtime.decide()

    assert len(runtime.jobs) == 1
    runtime.settle()
    assert len(source.asked("read")) == 1


def test_a_failed_proof_swaps_none_of_the_pools_and_gives_the_lease_back(watcher, source, runtime):
    """Two pools on one source rotate together or not at all."""
    first, second = Pool("first"), Pool("second")
    watcher.attach(first)
    watcher.attach(second)
    runtime.settle()
    second.fault = ProofFailed("no")
    watcher.rotate()
    runtime.settle()

    assert (first.installed, second.installed) == (["user-of-lease-1"], ["user-of-lease-1"])
    assert first.discarded == ["user-of-lease-2"]
    assert source.asked("revoke") == ["lease-2"]
    assert isinstance(first.reports[-1], ProofFailed)
    second.fault = None
    runtime.advance(5.0)
    assert "user-of-lease-3" == first.installed[-1] == second.installed[-1]


def test_a_pool_that_closes_in_the_middle_of_a_rotation_holds_up_nobody(watcher, source, runtime, caplog):
    """The others go on without it, by the same read."""
    first, second = Pool("first"), Pool("second")
    watcher.attach(first)
    watcher.attach(second)
    runtime.settle()
    second.fault, second.closed = ProofFailed("the pool was closed meanwhile"), True
    watcher.rotate()
    runtime.settle()

    assert first.installed == ["user-of-lease-1", "user-of-lease-2"]
    assert not first.discarded
    assert len(source.asked("read")) == 2
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    first.finishers.pop()()
    runtime.settle()
    assert source.asked("revoke") == ["lease-1"]


def test_a_pool_whose_database_is_away_darkens_no_other(watcher, source, runtime):
    """While a credential is in force they rotate together; when it is lost, who can be served is served."""
    first, second = Pool("first"), Pool("second")
    watcher.attach(first)
    watcher.attach(second)
    runtime.settle()
    second.fault = ProofFailed("no")
    watcher.lost(Credential("user-of-lease-1", "pw"), "gone")
    runtime.settle()

    assert (first.vacated, second.vacated) == (1, 1)
    assert (first.installed[-1], second.installed[-1]) == ("user-of-lease-2", "user-of-lease-1")
    second.fault = None
    runtime.advance(5.0)
    assert second.installed[-1] == "user-of-lease-2"
    assert len(source.asked("read")) == 2


def test_a_late_word_about_a_lease_changes_nothing(watcher, source, runtime):
    """Neither a loss nor a sign concerns the lease that followed."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    watcher.rotate()
    runtime.settle()
    old = Credential("user-of-lease-1", "pw")
    watcher.lost(old, "gone")
    watcher.suspect(old, Sign.REPORT)
    runtime.settle()

    assert (pool.vacated, len(source.asked("read"))) == (0, 2)


def test_the_end_of_a_retired_lease_is_told(watcher, source, runtime):
    """Connections by it that are still out may have to be ended: it was revoked, or its time is over."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    for fault in (LeaseLost("lease not found"), VaultUnavailable("away")):
        watcher.rotate()
        runtime.settle()
        source.fault, source.faulty = fault, {"renew"}
        runtime.advance(61.0)
        source.faulty = set()
        runtime.advance(61.0)

    assert pool.ended[0] == ("user-of-lease-1", True)
    assert False in {revoked for _, revoked in pool.ended}


def test_holders_know_how_long_the_credential_is_good(watcher, source, runtime):
    """Also after a renewal; and when it has ended without a successor, that it has."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    assert pool.deadline == watcher.state.deadline == 160.0
    runtime.advance(41.0)
    assert pool.deadline == watcher.state.deadline > 190.0
    source.fault, source.faulty = VaultUnavailable("away"), {"read", "renew"}
    runtime.advance(120.0)
    assert pool.lapsed == [60.0]
    assert pool.deadline == math.inf


def test_holders_know_it_before_the_first_client_is_served(watcher, source, runtime):
    """A scheduler that is starved from that moment on, and a leap of the clock, would lend sessions unasked."""
    first, second = Pool("first"), Pool("second")
    watcher.attach(first)
    runtime.settle()
    watcher.attach(second)
    runtime.settle()
    assert first.known == second.known == [160.0]


def test_a_pool_that_comes_later_gets_the_credential_in_force(watcher, source, runtime):
    """No second lease is read for it."""
    first, second = Pool("first"), Pool("second")
    watcher.attach(first)
    runtime.settle()
    watcher.attach(second)
    runtime.settle()

    assert second.installed == ["user-of-lease-1"]
    assert len(source.asked("read")) == 1


def test_a_pool_that_comes_later_is_tried_again_whatever_it_raises(watcher, source, runtime, caplog):
    """Its ``conninfo`` may be a function of the application's, which fails once."""
    first, second = Pool("first"), Pool("second")
    watcher.attach(first)
    runtime.settle()
    second.fault = ZeroDivisionError("bug")
    watcher.attach(second)
    runtime.settle()
    assert "unexpected error" in caplog.text
    assert isinstance(second.reports[-1], ZeroDivisionError)
    second.fault = None
    runtime.advance(5.0)

    assert second.installed == ["user-of-lease-1"]


def test_a_rotation_overtakes_the_welcome_of_a_late_pool(watcher, source, runtime):
    """What was prepared by the old credential is discarded, not installed over the new one."""
    first, second = Pool("first"), Pool("second")
    watcher.attach(first)
    runtime.settle()
    watcher.attach(second)
    runtime.decide()
    welcome = runtime.jobs.popleft()[1]
    watcher.rotate()
    runtime.settle()
    assert second.installed == ["user-of-lease-2"]
    welcome()

    assert second.installed == ["user-of-lease-2"]
    assert second.discarded == ["user-of-lease-1"]


def test_a_failed_read_is_tried_again_and_discards_nothing(watcher, source, runtime, caplog):
    """One WARNING at the start of the trouble, one line at its end."""
    caplog.set_level(logging.INFO, logger="vault_pool")
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    caplog.clear()
    source.fault, source.faulty = VaultUnavailable("away"), {"read", "renew"}
    watcher.rotate()
    runtime.settle()
    runtime.advance(10.0)

    assert pool.kinds().count(RotationFailed) > 1
    assert pool.vacated == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    source.faulty = set()
    caplog.clear()
    runtime.advance(30.0)
    assert len(pool.installed) == 2
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]


def test_a_lost_lease_is_taken_out_of_service_and_succeeded(watcher, source, runtime):
    """When a renewal says that it is gone: nobody gets its connections any more."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    source.fault, source.faulty = LeaseLost("lease not found"), {"renew"}
    runtime.advance(41.0)

    assert pool.vacated == 1
    assert pool.installed[-1] == "user-of-lease-2"
    assert source.asked("revoke") == []


def test_a_dead_token_is_a_lost_lease(watcher, source, runtime):
    """The leases that it issued died with it."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    source.owners["lease-1"] = Owner(dead=True, final=True)
    watcher.wake()
    runtime.settle()

    assert pool.vacated == 1
    assert pool.installed[-1] == "user-of-lease-2"


def test_an_answer_for_a_lease_that_is_no_longer_current_is_dropped(watcher, source, runtime):
    """It says nothing about the one that is."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    runtime.instant += 40.0
    runtime.decide()
    renewal = runtime.jobs.popleft()[1]
    source.owners["lease-1"] = Owner(dead=True, final=True)
    watcher.wake()
    runtime.settle()
    source.fault, source.faulty = LeaseLost("lease not found"), {"renew"}
    renewal()
    runtime.settle()

    assert pool.vacated == 1
    assert watcher.state.lease.lease_id == "lease-2"


def test_a_refused_read_is_asked_for_slowly(watcher, source, runtime):
    """Somebody has to change a policy first."""
    source.fault, source.faulty = VaultDenied("no"), {"read"}
    watcher.attach(Pool())
    runtime.settle()
    runtime.advance(60.0)

    assert 2 <= len(source.asked("read")) <= 5


def test_a_source_that_raises_anything_ends_nothing(watcher, source, runtime, caplog):
    """A bug in a source of the application's own is logged, and the attempts go on."""
    source.fault, source.faulty = ZeroDivisionError("bug"), {"read"}
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    assert "unexpected error" in caplog.text
    source.faulty = set()
    runtime.advance(10.0)

    assert pool.installed == ["user-of-lease-2"]


def test_a_failed_revocation_is_tried_again(watcher, source, runtime):
    """PostgreSQL refuses to drop a role whose last session is still exiting."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    watcher.rotate()
    runtime.settle()
    source.fault, source.faulty = VaultUnavailable("2BP01"), {"revoke"}
    pool.finishers.pop()()
    runtime.settle()
    source.faulty = set()
    runtime.advance(5.0)

    assert source.asked("revoke") >= ["lease-1"] * 2
    assert watcher.endings == []


def test_a_revocation_that_is_refused_is_left_to_time(watcher, source, runtime, caplog):
    """Nobody tries again what a policy forbids, and the log does not say so."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    watcher.rotate()
    runtime.settle()
    source.fault, source.faulty = VaultDenied("no"), {"revoke"}
    pool.finishers.pop()()
    runtime.advance(30.0)

    assert source.asked("revoke") == ["lease-1"]
    assert "retired lease lease-1: no; it will lapse" in caplog.text


def test_a_credential_that_lapses_is_kept_until_there_is_another(watcher, source, runtime):
    """Vault is down for longer than the lease: open sessions are not thrown away."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    source.fault, source.faulty = VaultUnavailable("away"), {"read", "renew"}
    runtime.advance(120.0)

    assert Phase.LAPSED is watcher.state.phase
    assert pool.vacated == 0
    assert runtime.upcoming is not None
    source.faulty = set()
    runtime.advance(31.0)
    assert "user-of-lease" in pool.installed[-1]
    assert Phase.ACTIVE is watcher.state.phase


def test_a_pool_that_was_dropped_is_served_no_more(watcher, source, runtime):
    """The watcher knows its pools weakly."""
    pool = Pool()
    watcher.attach(pool)
    runtime.settle()
    del pool
    watcher.rotate()
    runtime.settle()

    assert watcher._holders.alive() == []


def test_the_last_pool_waits_for_no_renewal(no_leaks):
    """What a renewal on its way brings is of no use any more; a read on its way would bring a lease to be ended."""
    source, pool = Source(duration=0.3), Pool()
    renewing, revoked, go_on = threading.Event(), threading.Event(), threading.Event()

    def renew(lease, now):
        renewing.set()
        assert go_on.wait(10)
        return lease.renewed(lease.duration, now)

    source.renew, source.revoke = renew, lambda lease: revoked.set()
    watcher = Watcher(source, RenewalPolicy(jitter=0.0), Runtime())
    watcher.attach(pool)
    assert renewing.wait(10)
    closing = threading.Thread(target=watcher.detach, args=[pool, 20.0], daemon=True)
    closing.start()
    assert revoked.wait(10)
    go_on.set()
    closing.join(10)

    assert not closing.is_alive()


@pytest.mark.parametrize("moment", ["read", "prepare"])
def test_what_comes_after_the_last_pool_has_left_is_revoked(no_leaks, moment):
    """Vault, or the database, hangs while close() waits; the lease comes when nobody waits any more."""
    source, pool = Source(), Pool()
    hangs, go_on, revoked = threading.Event(), threading.Event(), threading.Event()
    owner = source if moment == "read" else pool
    usual = getattr(owner, moment)

    def slow(given):
        hangs.set()
        assert go_on.wait(10)
        return usual(given)

    setattr(owner, moment, slow)
    source.revoke = lambda lease: revoked.set()
    watcher = Watcher(source, RenewalPolicy(), Runtime())
    watcher.attach(pool)
    assert hangs.wait(10)
    pool.closed = True
    watcher.detach(pool, 0.1)
    assert not revoked.is_set()
    go_on.set()

    assert revoked.wait(10)


def test_a_pool_that_was_closed_before_it_came_starts_no_watch(watcher, source, runtime):
    """One thread opens it, another closes it: nobody would end the watch."""
    pool = Pool()
    pool.closed = True
    watcher.attach(pool)
    runtime.settle()

    assert (source.log, source.attached, runtime.users) == ([], 0, 0)


def test_one_watcher_a_source(source, runtime):
    """Until nobody uses it any more."""
    policy = RenewalPolicy()
    first = watcher_of(source, policy, runtime)
    assert first is watcher_of(source, policy, runtime)
    forget(first)
    # The second one is about to attach.
    assert first is watcher_of(source, policy, runtime)
    forget(first)
    forget(first)

    assert first is not watcher_of(source, policy, runtime)
    forget(watcher_of(source, policy, runtime))
