"""
Durations, instants and TTL arithmetic.
"""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from vault_pool.devserver.errors import BackendError
from vault_pool.devserver.ttl import Limits, Wish, calculate_ttl
from vault_pool.devserver.values import BadDurationError, parse_duration, show_duration, show_time


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(90, 90), ("90", 90), ("2m", 120), ("1h30m", 5400), ("1d", 86400), ("1.5s", 1), ("-5s", -5), ("", 0), ("0", 0)],
)
def test_durations_are_seconds_go_notation_or_days(value, seconds):
    """Integers and their strings are seconds; fractions are cut."""
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("abc", 'time: invalid duration "abc"'),
        (90.7, 'time: missing unit in duration "90.7"'),
        (True, "could not parse duration from input"),
        ([1], "could not parse duration from input"),
    ],
)
def test_other_values_are_refused_in_gos_words(value, text):
    """What is no duration is refused with the text that Go gives."""
    with pytest.raises(BadDurationError, match=f"^{text.replace('.', '[.]')}$"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(2764800, "768h"), (90, "1m30s"), (5, "5s"), (60, "1m"), (3605, "1h0m5s"), (86400, "24h")],
)
def test_durations_are_shown_without_zero_units(seconds, shown):
    """Warnings print durations in hours, minutes and seconds."""
    assert show_duration(seconds) == shown


@given(st.integers(1, 10**7))
def test_a_shown_duration_reads_back(seconds):
    """What is shown means the same number of seconds."""
    assert parse_duration(show_duration(seconds)) == seconds


def test_instants_have_no_trailing_zeros():
    """RFC3339Nano cuts the zeros, and the whole fraction if it is nought."""
    assert show_time(1_800_000_000.5)[19:].startswith(".5")
    assert not show_time(1_800_000_000.0)[19:].startswith(".")
    assert show_time(None) is None


def test_start_and_present_are_cut_to_whole_seconds():
    """A lease issued at .9 counts a second more as soon as the clock's second changes."""
    wish = Wish(ttl=5, max_ttl=5)
    assert calculate_ttl(Limits(), wish, now=101.1, start=100.9) == (
        4,
        ['TTL of "5s" exceeded the effective max_ttl of "4s"; TTL value is capped accordingly'],
    )
    assert calculate_ttl(Limits(), wish, now=100.99, start=100.0) == (5, [])


def test_past_the_maximum_there_is_no_renewal():
    """At issue plus max_ttl, in whole seconds, a renewal is refused."""
    with pytest.raises(BackendError, match="past the max TTL, cannot renew"):
        calculate_ttl(Limits(), Wish(ttl=5, max_ttl=5), now=105.0, start=100.9)


def test_an_increment_counts_from_now_and_may_shorten():
    """The increment replaces the default, upwards and downwards."""
    wish = Wish(ttl=600, max_ttl=1800)
    assert calculate_ttl(Limits(), wish, now=100, start=50, increment=1)[0] == 1
    assert calculate_ttl(Limits(), wish, now=100, start=50, increment=1200)[0] == 1200


def test_a_period_ignores_the_increment_and_the_start():
    """A periodic token gets its period each time, but for an explicit maximum."""
    assert calculate_ttl(Limits(), Wish(period=40), now=10**6, start=0, increment=5)[0] == 40
    assert calculate_ttl(Limits(), Wish(period=40, explicit_max_ttl=50), now=20, start=0)[0] == 30


def test_a_mounts_maximum_replaces_the_systems():
    """A role can lower the mount's maximum, not raise it."""
    limits = Limits(default=30, maximum=60)
    assert calculate_ttl(limits, Wish(), now=0)[0] == 30
    assert calculate_ttl(limits, Wish(ttl=90, max_ttl=120), now=0)[0] == 60


@given(
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(0, 500),
)
def test_no_ttl_passes_the_maximum_by_more_than_a_second(start, age, increment, ttl, max_ttl):
    """Whatever is asked, the end is at most issue plus maximum, plus the second lost by cutting."""
    limits = Limits(default=100, maximum=300)
    maximum = min(300, max_ttl or 300)
    try:
        granted, _ = calculate_ttl(
            limits, Wish(ttl=ttl, max_ttl=max_ttl), now=start + age, start=start, increment=increment
        )
    except BackendError:
        assert age > maximum - 1
    else:
        assert granted > 0
        assert age + granted < maximum + 1
