"""
Generated lives: the pure core, driven as a watcher would drive it, against an imitation of Vault that is all values.

Rule 1: nothing waits. A life of months is some hundreds of steps from one wake-up to the next.
Rule 2: every invariant is checked at every step, by arithmetic of its own rather than the core's.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from vault_pool.core import lease as _lease, machine as _machine, policy as _policy

EPS = 1e-6


def namespace(*modules: Any) -> SimpleNamespace:
    """Return what the modules define, as one namespace, so that checks can be run on altered modules too."""
    names: dict[str, Any] = {}
    for module in modules:
        names |= vars(module)
    return SimpleNamespace(**names)


CORE = namespace(_lease, _policy, _machine)


@dataclass(frozen=True, kw_only=True)
class World:
    """What Vault grants and how it fails. Times in seconds, chances in [0, 1]."""

    ttl: int = 3600
    max_ttl: int = 86400
    renewable: bool = True
    token_ttl: int | None = None  # None: a token without an end
    token_max_ttl: int = 2764800
    token_renewable: bool = True
    latency: float = 0.01  # at most
    fails: float = 0.0  # a request fails, and may succeed later
    refused: float = 0.0  # a request fails for good
    reads_fail: float = 0.0
    cuts: float = 0.0  # a renewal grants less than was asked
    retry_after: float = 0.0
    token_dies: float = 0.0  # per request
    lost: float = 0.0  # per request: the credential is revoked by somebody
    by_hand: float = 0.0  # per step: somebody asks for a rotation
    held: float = 0.0  # for so long are sessions out after a rotation, at most
    outages: tuple[tuple[float, float], ...] = ()  # (begin, length), in units of the lease's ttl
    seed: int = 0
    steps: int = 250

    @property
    def kind(self) -> bool:
        """Whether nothing ever goes wrong in this world."""
        prompt = self.latency * 50 <= min(self.ttl, self.token_ttl or self.ttl)
        chances = (self.fails, self.refused, self.reads_fail, self.cuts, self.retry_after, self.token_dies, self.lost)
        return prompt and not any(chances) and not self.outages


@dataclass(eq=False)
class Grant:
    """What Vault knows of a lease or a token: the truth."""

    number: int
    issued_at: float
    expires_at: float
    max_ttl: float
    parent: Grant | None = None

    def alive(self, now: float) -> bool:
        return now < self.expires_at and (self.parent is None or self.parent.alive(now))

    def end(self) -> float:
        return min(self.expires_at, math.inf if self.parent is None else self.parent.end())


@dataclass(eq=False)
class Actor:
    """A machine and the requests that it has on the way."""

    state: Any
    is_token: bool
    grant: Grant | None = None
    old: bool = False
    drains_at: float = math.inf
    pending: tuple[float, float, Any] | None = None  # (processed at, answered at, request)
    level: float | None = None
    level_at: float = 0.0
    sent: deque[float] = field(default_factory=deque)
    by_hand: bool = False
    cut: bool = False
    read_at: float = -math.inf
    hindered: bool = False


class Life:
    """
    One life in one world; `run` lives it and raises AssertionError where an invariant is broken.

    Exceptions to "no wake-up past the point where it is too late": what Vault asks for (retry_after), the allowance,
    a request that is on its way, and an answer that came after the end of what it granted.
    Exceptions to "not before half of it": by hand, truncated, refused, lost.
    """

    def __init__(self, world: World, core: Any = CORE, policy: Any = None) -> None:
        self.world = world
        self.core = core
        self.policy = policy or core.RenewalPolicy()
        # With fewer requests than upkeep takes, even a kind world sees a lapse.
        self.kind = world.kind and self.policy.requests_per_hour >= core.RenewalPolicy().requests_per_hour
        self.random = random.Random(world.seed)
        self.now = self.start = 1000.0 + self.random.random()
        self.numbers = 0
        self.answered = False
        self.lapses = self.rotations = self.reads = self.renewals = 0
        self.token = None if world.token_ttl is None else Actor(core.LeaseState(draw=self.random.random()), True)
        self.lease = Actor(core.LeaseState(draw=self.random.random()), False)
        self.actors = [actor for actor in (self.token, self.lease) if actor is not None]

    # --- Vault -------------------------------------------------------------------------------------------

    def _out(self, at: float) -> bool:
        since = (at - self.start) / self.world.ttl
        return any(begin <= since < begin + length for begin, length in self.world.outages)

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def _grant(self, at: float, ttl: int, max_ttl: int, parent: Grant | None) -> tuple[Grant, float]:
        self.numbers += 1
        duration = float(min(ttl, max_ttl))
        return Grant(self.numbers, at, at + duration, max_ttl, parent), duration

    def _extend(self, grant: Grant, at: float, increment: float) -> float | None:
        """Return the duration granted, None for a refusal (sdk/framework/lease.go: both instants are floored)."""
        left = math.floor(grant.issued_at) + grant.max_ttl - math.floor(at)
        if left <= 0 or not grant.alive(at):
            return None
        duration = float(min(math.floor(increment), left))
        if self._chance(self.world.cuts):
            duration = float(max(1, math.floor(duration * self.random.random())))
        grant.expires_at = at + duration
        return duration

    # --- answers -----------------------------------------------------------------------------------------

    def _tell(self, actor: Actor, event: Any) -> None:
        before = actor.state
        actor.state = self.core.advance(before, event, self.now, self.policy)
        if (
            isinstance(event, self.core.Failed)
            and before.lease is not None
            and before.phase is not self.core.Phase.ENDED
        ):
            assert actor.state.lease is not None, "a failed request discarded a credential"
            assert actor.state.lease.lease_id == before.lease.lease_id
            assert actor.state.deadline == before.deadline, "a failed request moved the end"
            assert actor.state.serving == before.serving, "a failed request took a credential out of service"

    def _fail(self, actor: Actor, *, retryable: bool = True) -> None:
        retry_after = self.world.retry_after if self._chance(0.3) else 0.0
        self._tell(actor, self.core.Failed(self.random.random(), retryable, retry_after))

    def _answer(self, actor: Actor) -> None:
        assert actor.pending is not None
        at, _, request = actor.pending
        sent_at = actor.sent[-1]
        actor.pending, self.answered = None, True
        if self._out(at) or self._chance(self.world.fails):
            self._fail(actor)
        elif self._chance(self.world.refused):
            actor.cut = actor.cut or isinstance(request, self.core.Renew)
            self._fail(actor, retryable=False)
        elif isinstance(request, self.core.Read):
            self._read(actor, at, sent_at)
        elif isinstance(request, self.core.Renew):
            self._renew(actor, at, sent_at, request)
        else:
            assert actor.grant is not None
            actor.grant.expires_at = min(actor.grant.expires_at, at)
            self._tell(actor, self.core.Revoked())

    def _read(self, actor: Actor, at: float, sent_at: float) -> None:
        if self._chance(self.world.reads_fail):
            self._fail(actor)
            return
        core, world = self.core, self.world
        if actor.is_token:
            grant, duration = self._grant(at, world.token_ttl or 0, world.token_max_ttl, None)
            owner, renewable = core.Owner(), world.token_renewable
        else:
            parent = None if self.token is None else self.token.grant
            if self.token is not None and (parent is None or not parent.alive(at)):
                self._fail(actor)
                if self.token.state.serving:
                    self._lose(self.token, core.Lost())
                return
            grant, duration = self._grant(at, world.ttl, world.max_ttl, parent)
            owner = core.Owner() if self.token is None else self._owner(self.token)
            renewable = world.renewable
        self._retire(actor)
        actor.grant, actor.by_hand, actor.cut, actor.hindered, actor.read_at = grant, False, False, False, -math.inf
        lease = core.Lease.issued(str(grant.number), duration, sent_at, renewable=renewable)
        self._tell(actor, core.Issued(lease, owner, self.random.random()))
        actor.hindered = self.now >= actor.state.deadline

    def _retire(self, actor: Actor) -> None:
        if actor.state.lease is None:
            return
        if self.kind and not actor.by_hand:
            self._check_left(actor)
        self.rotations += 1
        state = self.core.advance(actor.state, self.core.Succeeded(), self.now, self.policy)
        drains_at = math.inf if actor.is_token else self.now + self.random.random() * self.world.held
        self.actors.append(
            Actor(
                state,
                actor.is_token,
                actor.grant,
                old=True,
                drains_at=drains_at,
                level=actor.level,
                level_at=actor.level_at,
            )
        )

    def _check_left(self, actor: Actor) -> None:
        """The old generation must have its time to finish, where nothing went wrong."""
        state, grant = actor.state, actor.grant
        assert grant is not None
        assert grant.alive(self.now), "succeeded after its end"
        left = state.deadline - self.now
        term = state.deadline - state.lease.stamped_at if not actor.cut else self.world.ttl
        share = 1.0 if self.token is None else 0.5
        term = min(term, self.world.token_ttl or math.inf)
        if actor.is_token or (actor.cut and self.token is not None):
            return
        kept = share * min(self.policy.retire_timeout, term / 3)
        floors = 1.0 if actor.cut else 0.0
        assert left >= kept - floors - 3 * self.world.latency - EPS, f"only {left} s left of {kept}"

    def _renew(self, actor: Actor, at: float, sent_at: float, request: Any) -> None:
        assert actor.grant is not None
        duration = self._extend(actor.grant, at, request.lease.increment)
        if duration is None:
            actor.cut = True
            self._fail(actor, retryable=False)
            return
        actor.cut = actor.cut or duration < request.lease.increment or duration < request.lease.duration
        self._tell(actor, self.core.Renewed(duration, sent_at, self.random.random()))
        actor.hindered = actor.hindered or self.now >= actor.state.deadline

    def _owner(self, token: Actor) -> Any:
        lease = token.state.lease
        if lease is None:
            return self.core.Owner(expires_at=self.now, final=True, dead=True)
        final = not token.state.renewing_buys
        return self.core.Owner(expires_at=token.state.deadline, term=lease.duration, final=final)

    # --- the watcher -------------------------------------------------------------------------------------

    def _owners(self) -> None:
        for actor in self.actors:
            if actor.is_token or actor.grant is None or actor.state.lease is None:
                continue
            for token in self.actors:
                if token.is_token and token.grant is actor.grant.parent:
                    owner = self._owner(token)
                    tell = self._lose if owner.dead else self._tell
                    tell(actor, self.core.OwnerChanged(owner))
                    actor.hindered = actor.hindered or self.now >= owner.expires_at

    def _step(self, actor: Actor) -> float:
        core = self.core
        if actor.pending is not None and self.now >= actor.pending[1]:
            self._answer(actor)
            self._owners()
        if actor.old and self.now >= actor.drains_at:
            self._tell(actor, core.Drained())
            actor.drains_at = math.inf
        action = core.decide(actor.state, self.now, self.policy)
        if isinstance(action, core.Lapse):
            self._lapse(actor)
            action = core.decide(actor.state, self.now, self.policy)
            assert not isinstance(action, core.Lapse), "lapsed twice"
        if not isinstance(action, core.Wait):
            self._send(actor, action)
            action = core.decide(actor.state, self.now, self.policy)
        assert isinstance(action, core.Wait), f"two requests at once: {action}"
        self._check_wait(actor, action.until)
        return min(action.until, actor.drains_at, actor.pending[1] if actor.pending else math.inf)

    def _lapse(self, actor: Actor) -> None:
        state, core = actor.state, self.core
        assert self.now >= state.deadline
        if state.serving:
            self.lapses += 1
            assert not self.kind, "a lapse, though nothing went wrong"
            asked = actor.read_at > -math.inf or actor.pending is not None
            assert asked or actor.hindered, "lapsed, and no successor was asked for"
        self._tell(actor, core.Lapsed())

    def _send(self, actor: Actor, request: Any) -> None:
        core, state, policy, now = self.core, actor.state, self.policy, self.now
        assert actor.pending is None, "a second request while one is on its way"
        assert now >= state.held_until - EPS, "sent though Vault forbade it"
        level = (
            policy.burst
            if actor.level is None
            else actor.level + (now - actor.level_at) * policy.requests_per_hour / 3600
        )
        actor.level, actor.level_at = min(policy.burst, level) - 1, now
        assert actor.level >= -EPS, "more requests than the policy allows"
        while actor.sent and actor.sent[0] <= now - 3600:
            actor.sent.popleft()
        actor.sent.append(now)
        assert len(actor.sent) <= policy.requests_per_hour + policy.burst
        if isinstance(request, core.Read):
            self.reads += 1
            actor.read_at = now
            if state.serving and not (actor.by_hand or actor.cut):
                half = state.lease.issued_at + (state.deadline - state.lease.issued_at) / 2
                assert now >= half - EPS, "replaced before half of it has passed"
        elif isinstance(request, core.Renew):
            self.renewals += 1
            assert state.lease.renewable, "renews what cannot be renewed"
        self._tell(actor, core.Sent())
        latency = self.random.random() * self.world.latency
        actor.pending = (now + latency * self.random.random(), now + latency, request)

    def _check_wait(self, actor: Actor, until: float) -> None:
        core, state, policy, now = self.core, actor.state, self.policy, self.now
        if state.phase is core.Phase.ENDED:
            return
        assert until > now, "a hot loop"
        assert until < math.inf, "no next wake-up"
        if now < state.deadline:
            assert until <= state.deadline, "asleep at the end"
        if not state.serving or actor.pending is not None:
            return
        turn = core.rotate_by(state, policy)
        set_aside = state.deadline - turn
        assert set_aside <= (state.deadline - state.lease.stamped_at) / 3 + EPS, "more than a third is set aside"
        scarce = (
            actor.level is not None
            and actor.level + (until - actor.level_at) * policy.requests_per_hour / 3600 <= 1 + EPS
        )
        exempt = state.held_until >= until - EPS or scarce
        actor.hindered = actor.hindered or exempt
        if now < turn and not exempt:
            assert until <= turn + EPS, "asleep when it is too late"

    def _meddle(self) -> None:
        core, world = self.core, self.world
        for actor in [self.lease, *([self.token] if self.token else [])]:
            if self._chance(world.by_hand) and actor.state.phase is not core.Phase.VACANT:
                actor.by_hand = True
                self._tell(actor, core.RotationRequested())
        if self._chance(world.lost) and self.lease.grant is not None and self.lease.state.serving:
            self.lease.grant.expires_at = self.now
            self._lose(self.lease, core.Lost())
        if self.token is not None and self._chance(world.token_dies) and self.token.state.serving:
            assert self.token.grant is not None
            self.token.grant.expires_at = self.now
            self._lose(self.token, core.Lost())
            for actor in self.actors:
                if not actor.is_token and actor.grant is not None and actor.grant.parent is self.token.grant:
                    self._lose(actor, core.OwnerChanged(core.Owner(expires_at=self.now, final=True, dead=True)))

    def _lose(self, actor: Actor, event: Any) -> None:
        """Tell *actor* that its credential is no more; what a renewal on its way brings is told no more."""
        if actor.pending is not None and isinstance(actor.pending[2], self.core.Renew):
            actor.pending = None
        self._tell(actor, event)
        assert not actor.state.serving, "in service though lost"

    def _bury(self) -> None:
        core = self.core
        ended = [actor for actor in self.actors if actor.old and actor.state.phase is core.Phase.ENDED]
        for actor in ended:
            assert actor.grant is not None
            known = min(actor.state.lease.expires_at, actor.state.owner.expires_at)
            assert not actor.grant.alive(self.now) or self.now >= known - EPS, "forgotten, though it lives"
        self.actors = [actor for actor in self.actors if actor not in ended]
        in_use = {id(actor.grant.parent) for actor in self.actors if not actor.is_token and actor.grant}
        for actor in self.actors:
            retiring = actor.is_token and actor.state.phase is core.Phase.RETIRING
            if retiring and id(actor.grant) not in in_use:
                actor.drains_at, self.answered = min(actor.drains_at, self.now), True

    def advance(self) -> None:
        """Live until the next wake-up."""
        self._meddle()
        self._owners()
        upcoming = min(self._step(actor) for actor in list(self.actors))
        self._bury()
        if self.answered:
            # Whoever an answer concerns is woken: it may have had its turn before the answer came.
            self.answered, upcoming = False, self.now
        self.now = max(upcoming, math.nextafter(self.now, math.inf))

    def run(self) -> Life:
        """Live it."""
        for _ in range(self.world.steps):
            self.advance()
        return self
