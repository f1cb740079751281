"""
Generated lives of credentials that are looked at: no lease, no end, and somebody who changes them.

The core is driven as a watcher would drive it; what it may do is checked at every step.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from tests.unit.core.lives import CORE, EPS


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the credential is kept, and how looking there goes. Times in seconds, chances in [0, 1]."""

    duration: float = 60.0  # until the next look, at least
    spread: float = 0.0  # and at most so much later
    changes: float = 0.0  # per step: somebody writes another credential
    latency: float = 0.01  # at most
    fails: float = 0.0  # per look
    refused: float = 0.0  # per look: for good
    unproven: float = 0.0  # per look that finds another credential: the database does not take it
    longest_pause: float = math.inf
    retry_after: float = 0.0
    by_hand: float = 0.0  # per step
    lost: float = 0.0  # per step: its role is gone
    seed: int = 0
    steps: int = 80


class Looking:
    """One such life; `run` lives it and raises AssertionError where an invariant is broken."""

    def __init__(self, place: Place, core: Any = CORE, policy: Any = None) -> None:
        self.place = place
        self.core = core
        self.policy = policy or core.RenewalPolicy()
        self.random = random.Random(place.seed)
        self.now = 1000.0 + self.random.random()
        self.state = core.LeaseState(draw=self.random.random())
        self.written = 1  # the number of the credential that is written there
        self.serves: int | None = None  # and of the one that serves
        self.pending: tuple[float, float, int] | None = None  # (left at, answered at, what it will find)
        self.level, self.level_at = float(self.policy.burst), self.now
        self.looks = self.changes = self.generations = 0

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def _tell(self, event: Any) -> None:
        self.state = self.core.advance(self.state, event, self.now, self.policy)

    # --- What happens --------------------------------------------------------------------------------------

    def _meddle(self) -> None:
        core = self.core
        if self._chance(self.place.changes):
            self.written += 1
        if self._chance(self.place.by_hand):
            self._tell(core.RotationRequested())
            assert self.pending or isinstance(self._decide(), core.Read) or self._exempt(self.now), "not by hand"
        if self._chance(self.place.lost) and self.state.serving:
            self._tell(core.Lost())
            self.serves = None
            assert self.state.lease is None

    def _answer(self) -> None:
        assert self.pending is not None
        sent_at, _, found = self.pending
        self.pending = None
        if self._chance(self.place.fails):
            self._fail(retryable=True)
        elif self._chance(self.place.refused):
            self._fail(retryable=False)
        elif found == self.serves and not self.state.wanted:
            self._unchanged(sent_at)
        elif self._chance(self.place.unproven):
            self._fail(retryable=True)
        else:
            self._taken(sent_at, found)

    def _fail(self, *, retryable: bool) -> None:
        before, place = self.state, self.place
        retry_after = place.retry_after if self._chance(0.3) else 0.0
        self._tell(self.core.Failed(self.random.random(), retryable, retry_after, place.longest_pause))
        assert self.state.lease == before.lease, "a failed look discarded a credential"
        assert self.state.serving == before.serving, "a failed look took a credential out of service"
        wait = self._decide()
        if isinstance(wait, self.core.Wait) and not self._exempt(wait.until):
            longest = min(self.policy.backoff_cap, place.longest_pause)
            assert wait.until <= self.now + longest + EPS, "too long a pause after a failure"

    def _unchanged(self, sent_at: float) -> None:
        before = self.state.lease
        self._tell(self.core.Unchanged(self._term(sent_at, self.serves), self.random.random()))
        after = self.state.lease
        assert (after.lease_id, after.issued_at) == (before.lease_id, before.issued_at), "it is the same credential"
        self._check_next(sent_at)

    def _taken(self, sent_at: float, found: int) -> None:
        core = self.core
        if self.state.lease is not None:
            old = core.advance(self.state, core.Succeeded(), self.now, self.policy)
            assert core.decide(old, self.now + 1e9, self.policy) == core.Wait(math.inf), "asks for what is retired"
            ended = core.advance(old, core.Drained(), self.now, self.policy)
            assert ended.phase is core.Phase.ENDED, "there is nothing to revoke"
        self.changes += found != self.serves
        self.generations += 1
        self.serves = found
        self._tell(core.Issued(self._term(sent_at, found), core.Owner(), self.random.random()))
        assert self.state.serving
        assert not self.state.wanted
        self._check_next(sent_at)

    def _term(self, sent_at: float, found: int | None) -> Any:
        return self.core.Lease.looked_up(
            f"at {sent_at} #{found}", self.place.duration, sent_at, spread=self.place.spread
        )

    # --- What must hold --------------------------------------------------------------------------------------

    def _exempt(self, until: float) -> bool:
        """Whether Vault, or the allowance, asks for a pause until then."""
        level = self.level + (until - self.level_at) * self.policy.requests_per_hour / 3600
        return self.state.held_until >= until - EPS or level <= 1 + EPS

    def _check_next(self, sent_at: float) -> None:
        """After a look that went well: when the source says, and within its spread."""
        earliest = sent_at + self.place.duration
        wait = self._decide()
        if isinstance(wait, self.core.Wait):
            assert wait.until >= earliest - EPS, "looks again too soon"
            late = wait.until > max(earliest + self.place.spread, self.now) + EPS
            assert not late or self._exempt(wait.until), "looks again too late"
        else:
            assert self.now >= earliest - EPS, "looks again at once"

    def _decide(self) -> Any:
        action = self.core.decide(self.state, self.now, self.policy)
        allowed = (self.core.Read, self.core.Wait)
        assert isinstance(action, allowed), f"{action}, though there is no lease"
        return action

    def _send(self) -> None:
        assert self.pending is None, "a second look while one is on its way"
        assert self.now >= self.state.held_until - EPS, "looks though Vault forbade it"
        earned = (self.now - self.level_at) * self.policy.requests_per_hour / 3600
        self.level, self.level_at = min(self.policy.burst, self.level + earned) - 1, self.now
        assert self.level >= -EPS, "more looks than the policy allows"
        self.looks += 1
        self._tell(self.core.Sent())
        latency = self.random.random() * self.place.latency
        self.pending = (self.now, self.now + latency, self.written)

    def advance(self) -> None:
        """Live until the next wake-up."""
        self._meddle()
        if self.pending is not None and self.now >= self.pending[1]:
            self._answer()
        action = self._decide()
        if isinstance(action, self.core.Read):
            self._send()
            action = self._decide()
        assert isinstance(action, self.core.Wait), "two looks at once"
        assert self.now < action.until, "a hot loop"
        assert action.until < math.inf or self.place.duration == math.inf, "no next look"
        upcoming = min(action.until, self.pending[1] if self.pending else math.inf)
        self.now = max(min(upcoming, self.now + 1e6), math.nextafter(self.now, math.inf))

    def run(self) -> Looking:
        """Live it."""
        for _ in range(self.place.steps):
            self.advance()
        return self
