"""Generated lives of leases and tokens: the invariants that `Life` checks at every step."""

from __future__ import annotations

import math

from hypothesis import example, given, strategies as st

from tests.unit.core.lives import CORE, Life, World

TTLS = st.sampled_from([2, 3, 6, 20, 60, 600, 3600, 86400, 2764800]) | st.integers(2, 100_000)
RARELY = st.sampled_from([0.0, 0.0, 0.02, 0.2])
OFTEN = st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0])


@st.composite
def grants(draw, *, tokens=True):
    """What Vault grants in a world."""
    ttl = draw(TTLS)
    token_ttl = draw(st.none() | TTLS) if tokens else None
    return {
        "ttl": ttl,
        "max_ttl": draw(st.sampled_from([ttl, ttl + 1, ttl * 3 // 2, ttl * 2, ttl * 24])),
        "renewable": draw(st.booleans()),
        "token_ttl": token_ttl,
        "token_max_ttl": (token_ttl or 1) * draw(st.sampled_from([1, 2, 20])),
        "token_renewable": draw(st.booleans()),
        "held": draw(st.sampled_from([0.0, 1.0, ttl / 2, ttl * 3.0])),
        "by_hand": draw(RARELY),
        "seed": draw(st.integers(0, 2**32)),
        "steps": 120,
    }


@st.composite
def kind_worlds(draw, *, tokens=True):
    """Worlds in which nothing goes wrong."""
    granted = draw(grants(tokens=tokens))
    shortest = min(granted["ttl"], granted["token_ttl"] or math.inf)
    return World(latency=draw(st.sampled_from([0.001, shortest / 100])), **granted)


@st.composite
def harsh_worlds(draw):
    """Worlds in which anything goes wrong, and answers may come after the end of what they grant."""
    granted = draw(grants())
    return World(
        latency=draw(st.sampled_from([0.01, 1.0, 10.0, granted["ttl"] / 3, granted["ttl"] * 1.0])),
        fails=draw(OFTEN),
        refused=draw(OFTEN),
        reads_fail=draw(OFTEN),
        cuts=draw(RARELY),
        retry_after=draw(st.sampled_from([0.0, 5.0, 1000.0])),
        token_dies=draw(RARELY),
        lost=draw(RARELY),
        outages=draw(st.sampled_from([(), ((0.1, 0.7),), ((1.0, 3.0), (5.0, 0.5)), ((1.0, 20.0),)])),
        **granted,
    )


@given(kind_worlds(tokens=False))
def test_a_lease_never_lapses_when_vault_behaves(world):
    """Rotated before its end, with the reserve left, whatever its TTL and max TTL."""
    assert world.kind
    assert Life(world).run().lapses == 0


@given(kind_worlds())
def test_a_lease_under_a_token_never_lapses_when_vault_behaves(world):
    """The token is renewed, or replaced, and the leases follow it in time."""
    assert Life(world).run().lapses == 0


@given(harsh_worlds())
def test_anything_may_go_wrong(world):
    """No hot loop, no storm, no second request, nothing discarded, nothing forgotten, nobody asleep too late."""
    Life(world).run()


# A read that the allowance holds up, and a token renewed meanwhile: the lease has time again.
HELD_UP = World(
    ttl=20,
    max_ttl=20,
    renewable=False,
    token_ttl=6,
    token_max_ttl=12,
    latency=1.0,
    retry_after=5.0,
    outages=((0.1, 0.7),),
    steps=120,
)


@given(harsh_worlds(), st.floats(1.0, 1000.0), st.integers(1, 5))
@example(HELD_UP, 732.0, 1)
def test_the_allowance_bounds_the_requests(world, requests_per_hour, burst):
    """However little is allowed, it is kept to."""
    policy = CORE.RenewalPolicy(requests_per_hour=requests_per_hour, burst=burst)
    Life(world, policy=policy).run()


@given(kind_worlds(tokens=False), st.floats(0.5, 2 / 3), st.floats(0, 1), st.floats(0, 1e6))
def test_any_policy_keeps_the_promises(world, renew_at, part, retire_timeout):
    """Every policy that is accepted keeps half of a lease in service and at most a third for retiring."""
    jitter = part * (1 - 0.5 / renew_at)
    policy = CORE.RenewalPolicy(renew_at=renew_at, jitter=jitter, retire_timeout=retire_timeout)
    assert Life(world, policy=policy).run().lapses == 0


@given(st.integers(0, 2**32))
def test_vault_comes_back(seed):
    """After an outage of twenty leases the first read that can succeed is at most the longest pause away."""
    life = Life(World(ttl=60, max_ttl=120, outages=((1.0, 20.0),), seed=seed, steps=400, latency=0.01))
    end = life.start + 21 * 60
    while life.now < end:
        life.advance()
    numbers = life.numbers
    while life.now < end + CORE.RenewalPolicy().backoff_cap + 1:
        life.advance()
    assert life.numbers > numbers
    assert life.lease.state.serving
