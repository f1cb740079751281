"""The numbers of a policy, and the refusal of those that cannot work."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from vault_pool.core.policy import RenewalPolicy


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("retire_timeout", -1, "retire_timeout must be a number of at least 0, not -1"),
        ("retire_timeout", math.inf, "retire_timeout must be a number of at least 0, not inf"),
        ("backoff_cap", math.nan, "backoff_cap must be a number of at least 0, not nan"),
        ("renew_at", "2/3", "renew_at must be a number of at least 0, not '2/3'"),
        ("renew_at", 0.7, "renew_at must be at most 2/3: the last third is for outages and retiring"),
        ("renew_at", 0.5, "renew_at must be at least 0.5 also after jitter was taken from it"),
        ("jitter", 0.3, "renew_at must be at least 0.5 also after jitter was taken from it"),
        ("jitter", 1.5, "renew_at must be at least 0.5 also after jitter was taken from it"),
        ("backoff_base", 0, "backoff_base must be more than 0"),
        ("backoff_cap", 0.1, "backoff_cap must be at least backoff_base"),
        ("requests_per_hour", 0, "requests_per_hour must be more than 0"),
        ("request_timeout", 0, "request_timeout must be more than 0"),
        ("burst", 0, "burst must be at least 1: nothing would ever be sent"),
    ],
)
def test_what_cannot_work_is_refused(field, value, text):
    """The message names the field and the rule."""
    with pytest.raises(ValueError) as caught:
        RenewalPolicy(**{field: value})
    assert str(caught.value).startswith(f"RenewalPolicy.{text}")


def test_the_limits_are_allowed():
    """A quarter of jitter, renewing at half without any, no time for retiring."""
    assert RenewalPolicy(jitter=0.25).fraction(1.0) == pytest.approx(0.5)
    assert RenewalPolicy(renew_at=0.5, jitter=0).fraction(0.3) == 0.5
    assert RenewalPolicy(retire_timeout=0).reserve(60) == 0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_pause_is_capped(failures, draw):
    """Between nothing and the cap, for any number of failures."""
    assert 0 <= RenewalPolicy().backoff(failures, draw) <= 30


@given(st.floats(-10, 1e9))
def test_the_reserve_is_a_third_at_most(term):
    """And never negative, also for a term that is over."""
    reserve = RenewalPolicy().reserve(term)
    assert 0 <= reserve <= max(0.0, term / 3)
    assert reserve <= 30
