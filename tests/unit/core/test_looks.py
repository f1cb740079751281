"""Generated lives of credentials that are looked at: the invariants that `Looking` checks at every step."""

from __future__ import annotations

import math

from hypothesis import given, settings, strategies as st

from tests.unit.core.lives import CORE
from tests.unit.core.looks import Looking, Place

RARELY = st.sampled_from([0.0, 0.0, 0.02, 0.2])
OFTEN = st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0])
DURATIONS = st.sampled_from([0.0, 0.5, 1.0, 11.0, 60.0, 86400.0, math.inf]) | st.floats(0.0, 1e7)


@st.composite
def places(draw, *, harsh=True):
    """Where a credential may be kept."""
    hard = (
        {
            "fails": draw(OFTEN),
            "refused": draw(OFTEN),
            "unproven": draw(OFTEN),
            "lost": draw(RARELY),
            "latency": draw(st.sampled_from([0.01, 1.0, 100.0])),
            "longest_pause": draw(st.sampled_from([math.inf, 60.0, 1.0, 0.5])),
            "retry_after": draw(st.sampled_from([0.0, 5.0, 1000.0])),
        }
        if harsh
        else {}
    )
    return Place(
        duration=draw(DURATIONS),
        spread=draw(st.sampled_from([0.0, 0.2, 5.0, 1000.0])),
        changes=draw(st.sampled_from([0.0, 0.05, 0.5, 1.0])),
        by_hand=draw(RARELY),
        seed=draw(st.integers(0, 2**32)),
        **hard,
    )


@given(places())
def test_anything_may_go_wrong(place):
    """Always a next look, when the source says; nothing discarded; no second look; no more than is allowed."""
    Looking(place).run()


@given(places(), st.floats(1.0, 1000.0), st.integers(1, 5))
def test_the_allowance_bounds_the_looks(place, requests_per_hour, burst):
    """However often a source wants to be looked at."""
    Looking(place, policy=CORE.RenewalPolicy(requests_per_hour=requests_per_hour, burst=burst)).run()


@given(st.floats(0.5, 1e5), st.floats(0.0, 0.5), st.integers(0, 2**32))
def test_a_change_is_taken_by_the_first_look_after_it(duration, part, seed):
    """At the latest a whole interval, its spread and a request after it was written; and nothing else is replaced."""
    place = Place(duration=duration, spread=duration * part, seed=seed)
    life = Looking(place).run()
    assert (life.serves, life.generations) == (1, 1)
    for number in range(2, 20):
        looks = life.looks
        life.written, written_at = number, life.now
        on_its_way = life.pending is not None
        while life.serves != number:
            life.advance()
        assert life.now - written_at <= duration + place.spread + 2 * place.latency + 1e-6 * duration
        assert life.looks - looks <= 1 or on_its_way
        assert life.generations == number


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(0.5, 10.0))
def test_what_costs_nobody_anything_is_tried_at_its_own_pace(seed, pause):
    """A file that was broken for minutes is taken within its interval, not when a pause of half a minute is over."""
    place = Place(duration=pause, fails=1.0, longest_pause=pause, seed=seed)
    life = Looking(place)
    while life.now < 1200.0:
        life.advance()
    life.place = Place(duration=pause, longest_pause=pause, seed=seed)
    mended = life.now
    while life.serves is None:
        life.advance()
    assert life.now - mended <= pause + 0.5 + 2 * place.latency + 1e-6


@given(st.integers(0, 2**32))
def test_who_asks_for_a_rotation_gets_one_of_the_same_credential(seed):
    """Once; then looks that find it are no news again."""
    life = Looking(Place(seed=seed)).run()
    life._tell(CORE.RotationRequested())
    while life.generations < 2:
        life.advance()
    for _ in range(50):
        life.advance()
    assert (life.generations, life.changes, life.serves) == (2, 1, 1)
