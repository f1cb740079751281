"""
Does the suite notice? One timing rule broken at a time, in memory, must break a check.

The files on disk are only read.
"""
# ruff: noqa: E501 - a mutation is a line of the table

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import vault_pool.core
from tests.unit.core.lives import CORE, Life, World, namespace
from tests.unit.core.looks import Looking, Place
from tests.unit.core.table import CHECKS

# In the order in which they import one another.
NAMES = ("lease", "policy", "messages", "state", "machine")
FOLDER = Path(vault_pool.core.__file__).parent

#: (description, module, what stands there, what is put in its place)
MUTATIONS = [
    ("renews at 9/10", "policy", "return self.renew_at * (1 - self.jitter * draw)", "return 0.9"),
    ("spreads towards the later side", "policy", "(1 - self.jitter * draw)", "(1 + self.jitter * draw)"),
    ("spreads nothing", "policy", "(1 - self.jitter * draw)", "1"),
    ("sets more than a third aside", "policy", "term * self.MOST_RESERVED", "term"),
    ("sets nothing aside", "policy", "return max(0.0, min(self.retire_timeout, term * self.MOST_RESERVED))", "return 0.0"),
    ("always sets a third aside", "policy", "min(self.retire_timeout, term * self.MOST_RESERVED)", "term / 3"),
    ("has no cap of backoff", "policy", "draw * min(self.backoff_cap, ceiling)", "draw * ceiling"),
    ("does not back off", "policy", "2.0 ** min(failures - 1, _LARGEST_EXPONENT)", "1"),
    ("has no jitter in the pause", "policy", "return draw * min(", "return min("),
    ("is impatient with what somebody has to mend", "policy", "self.backoff_cap * (1 + draw) / 2", "0.1 * draw"),
    ("does not spread patience", "policy", "self.backoff_cap * (1 + draw) / 2", "self.backoff_cap / 2"),
    ("refills a hundred times as fast", "policy", "self.requests_per_hour / 3600", "self.requests_per_hour / 36"),
    ("counts a renewal from the term before", "lease", "stamped_at=now, renewable", "stamped_at=self.expires_at, renewable"),
    ("ignores truncation", "lease", "renewable = self.renewable and not self.truncated_by(duration)", "renewable = True"),
    ("forgives a second", "lease", "duration < self.increment or", "duration < self.increment - 1 or"),
    ("ignores a grant smaller than the one before", "lease", " or duration < self.duration", ""),
    ("asks for what was granted last", "lease", "stamped_at=now, renewable=", "stamped_at=now, increment=duration, renewable="),
    ("ignores the owner", "state", "min(self.lease.expires_at, self.owner.expires_at)", "self.lease.expires_at"),
    ("renews what outlives a final token", "state", " and not (owner.final and lease.expires_at >= owner.expires_at)", ""),
    ("renews nothing under a final token", "state", "owner.final and lease.expires_at >= owner.expires_at", "owner.final"),
    ("counts from the answer", "machine", "state.lease.renewed(event.duration, event.stamped_at)", "state.lease.renewed(event.duration, now)"),
    ("ignores the token's turn", "machine", "return min(lease_turn, owner_turn)", "return lease_turn"),
    ("ignores the lease's turn", "machine", "return min(lease_turn, owner_turn)", "return owner_turn"),
    ("gives a token that may be renewed no time", "machine", "(1 if owner.final else 0.5)", "1"),
    ("takes the reserve of a token from all of its term", "machine", "min(owner.term, owner.expires_at - lease.stamped_at)", "owner.term"),
    ("forgets the term of the token", "machine", "min(owner.term, owner.expires_at - lease.stamped_at)", "owner.expires_at - lease.stamped_at"),
    ("renews a lease that outlives its token", "machine", "return Read() if outlived else Renew(lease)", "return Renew(lease)"),
    ("never keeps alive what has no successor", "machine", "return Renew(lease) if keep else Read()", "return Read()"),
    ("prefers renewing to the successor", "machine", "read_failed = state.failures > 0 and isinstance(state.sent, Read)", "read_failed = True"),
    ("renews by turns before it is time", "machine", "state.renewing_buys and now >= _renewal_at(state, policy)", "state.renewing_buys"),
    ("waits after a truncated renewal", "machine", "if timed.serving and not lease.renewable:", "if False:"),
    ("has no allowance", "machine", "return now if missing <= 0 else now + missing / policy.refill", "return now"),
    ("lets the allowance grow for ever", "machine", "return min(float(policy.burst), state.allowance + ", "return max(0.0, state.allowance + "),
    ("does not count what is sent", "machine", "_allowance(state, now, policy) - 1", "_allowance(state, now, policy)"),
    ("forgets retry_after", "machine", "max(state.held_until, now + event.retry_after)", "state.held_until"),
    ("lets a rotation by hand break what Vault forbids", "machine", "max(state.due, state.held_until, ", "max(state.due, "),
    ("sends a second request", "machine", "if state.sent_at is not None:\n        due = now + policy.request_timeout", "if False:\n        due = now"),
    ("sleeps through the deadline", "machine", "return Wait(due if over else min(due, state.deadline))", "return Wait(due)"),
    ("never lapses", "machine", "if over and (state.serving or", "if over and (False and state.serving or"),
    ("gives a retired lease up while it is renewed", "machine", "(state.succeeded and state.sent_at is None)", "state.succeeded"),
    ("retries past the turn", "machine", "if state.phase is Phase.ACTIVE and due >= turn:", "if False:"),
    ("pauses past the turn of a read", "machine", "        return min(due, rotate_by(state, policy))\n", "        return due\n"),
    ("sleeps through what is left", "machine", "return min(pause, max(left / 2, policy.backoff_base))", "return pause"),
    ("pauses past the deadline", "machine", "return min(due, state.deadline) if now < state.deadline else due", "return due"),
    ("goes on renewing after a refusal", "machine", "if not event.retryable:\n        refused", "if False:\n        refused"),
    ("forgets that a renewal was refused", "machine", "lease=replace(lease, renewable=False)", "lease=lease"),
    ("takes every failure for temporary", "machine", " if event.retryable else policy.patience(event.draw)", ""),
    ("takes a late renewal's failure for the read's", "machine", "if lease is None or not (state.serving or state.phase is Phase.RETIRING):", "if lease is None:"),
    ("discards a credential for a failed read", "machine", "    return replace(answered, failures=failures, due=max(due, held_until))", "    return replace(answered, failures=failures, due=max(due, held_until), lease=None)"),
    ("revokes for ever", "machine", "        due = math.inf\n", "        pass\n"),
    ("hurries at every news of the token", "machine", "return replace(known, due=_in_time(known.due, known, now, policy))", "return _timed(known, policy)"),
    ("does not hear of the token", "machine", "    known = replace(state, owner=owner)\n", "    known = state\n"),
    ("lets the dead token's leases live", "machine", "    if owner.dead:\n", "    if False:\n"),
    ("reads twice after a loss", "machine", "sent_at = state.sent_at if state.reading else None", "sent_at = None"),
    ("waits for a renewal after a loss", "machine", "sent_at = state.sent_at if state.reading else None", "sent_at = state.sent_at"),
    ("starts over at every report of a loss", "machine", "due=now, failures=0) if served else vacant", "due=now, failures=0)"),
    ("waits though the one who dropped the role is back", "machine", "served = state.serving or state.phase is Phase.LAPSED", "served = state.serving"),
    ("reads dead leases as fast as it can", "machine", "failures=failures, due=now + policy.backoff(failures, event.draw))\n\n\ndef _renewed", "due=now)\n\n\ndef _renewed"),
    ("lets a wish be undone by a renewal", "machine", "if state.wanted or state.phase", "if state.phase"),
    ("wishes for ever", "machine", "failures=0, wanted=False, sent_at=None)\n    granted", "failures=0, sent_at=None)\n    granted"),
    ("revives what was succeeded", "machine", "case Issued() if not state.succeeded:", "case Issued():"),
    ("revives what is being revoked", "machine", " or state.phase is Phase.REVOKING:\n", ":\n"),
    ("takes a late renewal for the read's answer", "machine", " and not state.reading:\n", ":\n"),
    ("lapses on old news", "machine", "case Lapsed() if now >= state.deadline and state.serving:", "case Lapsed() if state.serving:"),
    ("ends a lease in service when it is revoked", "machine", "case Lost() | Revoked() if state.succeeded:", "case Revoked() | Lost() if state.succeeded or event == Revoked():"),
    ("never revokes", "machine", "phase=Phase.REVOKING, due=now, failures=0)", "phase=Phase.ENDED)"),
    ("lets retired leases die", "machine", "return replace(state, due=at if buys else math.inf)", "return replace(state, due=math.inf)"),
    ("asks in vain for retired leases", "machine", "return replace(state, due=at if buys else math.inf)", "return replace(state, due=at)"),
    ("puts a lapse off", "machine", "phase=Phase.LAPSED, due=min(state.due, now + policy.backoff_cap))", "phase=Phase.LAPSED, due=now + policy.backoff_cap)"),
    ("forgets that failures were in a row", "machine", "    failures = state.failures + 1\n    pause", "    failures = 1\n    pause"),
    ("keeps failures for ever", "machine", "longer = replace(state, lease=lease, draw=event.draw, failures=0)", "longer = replace(state, lease=lease, draw=event.draw)"),
    ("lets what is looked at end", "lease", "return math.inf if self.polled else self.stamped_at", "return self.stamped_at"),
    ("takes a look for a lease", "lease", "replace(unleased, polled=True, spread=spread)", "replace(unleased, spread=spread)"),
    ("has a fleet look in step", "lease", "replace(unleased, polled=True, spread=spread)", "replace(unleased, polled=True)"),
    ("renews what is looked at", "lease", "cls.issued(version, duration, now, renewable=False)", "cls.issued(version, duration, now)"),
    ("asks for more time instead of looking", "machine", "    if lease.polled:\n        return Read()\n", ""),
    ("looks at two thirds", "machine", "    if lease.polled:\n        return lease.stamped_at + lease.duration + lease.spread * state.draw\n", ""),
    ("counts a look from the first one", "machine", "lease.stamped_at + lease.duration + lease.spread", "lease.issued_at + lease.duration + lease.spread"),
    ("takes what is looked at for its last term", "machine", "Phase.ACTIVE if buys or polled else Phase.FINAL", "Phase.ACTIVE if buys else Phase.FINAL"),
    ("tells Vault of what it does not know", "machine", "        case Drained() if state.phase is Phase.RETIRING and state.lease is not None and state.lease.polled:\n            return replace(state, phase=Phase.ENDED)\n", ""),
    ("revives by a look what was succeeded", "machine", "case Unchanged(lease, draw) if state.serving and state.lease", "case Unchanged(lease, draw) if state.lease"),
    ("renames what did not change", "machine", "replace(lease, lease_id=state.lease.lease_id, issued_at=state.lease.issued_at)", "replace(lease, issued_at=state.lease.issued_at)"),
    ("forgets since when it serves", "machine", "replace(lease, lease_id=state.lease.lease_id, issued_at=state.lease.issued_at)", "replace(lease, lease_id=state.lease.lease_id)"),
    ("looks once only", "machine", "lease=again, draw=draw, failures=0, sent_at=None), policy)", "lease=again, draw=draw, failures=0), policy)"),
    ("keeps the failures of looks", "machine", "lease=again, draw=draw, failures=0, sent_at=None), policy)", "lease=again, draw=draw, sent_at=None), policy)"),
    ("looks by the same draw for ever", "machine", "lease=again, draw=draw, failures=0, sent_at=None), policy)", "lease=again, failures=0, sent_at=None), policy)"),
    ("keeps the old term after a look", "machine", "replace(state, lease=again, draw=draw,", "replace(state, draw=draw,"),
    ("backs off from what costs nothing", "machine", "min(pause, event.longest_pause)", "pause"),
]  # fmt: skip

#: Some lives, so that what the table does not name is looked at as well.
WORLDS = [
    World(ttl=3600, max_ttl=86400, seed=1, steps=60),
    World(ttl=6, max_ttl=12, token_ttl=20, token_max_ttl=60, held=5, seed=2, steps=60),
    World(ttl=60, max_ttl=90, fails=0.5, reads_fail=0.5, cuts=0.2, latency=1, retry_after=5, held=40, seed=3, steps=60),
]
PLACES = [
    Place(duration=1.0, changes=0.05, latency=0.3, seed=1),
    Place(changes=0.2, spread=5, fails=0.5, refused=0.1, unproven=0.3, by_hand=0.05, lost=0.05, retry_after=9, seed=2),
]


def altered(module: str, old: str, new: str) -> SimpleNamespace:
    """Return the core with *old* replaced by *new* in *module*."""
    ours = [f"vault_pool.core.{name}" for name in NAMES]
    originals = {name: sys.modules[name] for name in ours}
    modules: list[ModuleType] = []
    try:
        for name in NAMES:
            path = FOLDER / f"{name}.py"
            source = path.read_text(encoding="utf-8")
            if name == module:
                assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {path.name}"
                source = source.replace(old, new)
            made = ModuleType(f"vault_pool.core.{name}")
            sys.modules[made.__name__] = made
            exec(compile(source, str(path), "exec"), vars(made))
            modules.append(made)
    finally:
        sys.modules.update(originals)
    return namespace(*modules)


def fails(check, *arguments) -> bool:
    """Tell whether *check* complains; a core that breaks down is noticed too."""
    try:
        check(*arguments)
    except (AssertionError, AttributeError, TypeError, ValueError):
        return True
    return False


def complaint(core: SimpleNamespace) -> str | None:
    """Return the name of the first check that fails, if any."""
    for check in CHECKS:
        if fails(check, core):
            return check.__name__
    for place in PLACES:
        if fails(lambda place=place: Looking(place, core).run()):
            return str(place)
    for world in WORLDS:
        if fails(lambda world=world: Life(world, core).run()):
            return str(world)
    return None


def test_the_core_as_it_is_passes():
    """Without a mutation nothing complains, neither about the core nor about a copy of it made the same way."""
    assert complaint(CORE) is None
    assert complaint(altered("policy", "import math", "import math")) is None


@pytest.mark.parametrize(("module", "old", "new"), [m[1:] for m in MUTATIONS], ids=[m[0] for m in MUTATIONS])
def test_a_broken_rule_is_noticed(module, old, new):
    """A core that breaks the rule fails at least one check."""
    assert complaint(altered(module, old, new)) is not None
