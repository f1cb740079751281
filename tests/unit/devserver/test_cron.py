"""
Schedules in the form of cron.
"""

from __future__ import annotations

from datetime import datetime

import pytest

from vault_pool.devserver.cron import parse_schedule


def instant(text):
    return datetime.fromisoformat(text).astimezone().timestamp()


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("* * * * *", "2026-01-31 12:00:30", "2026-01-31 12:01"),
        ("*/5 * * * *", "2026-01-31 12:00", "2026-01-31 12:05"),
        ("0 0 * * *", "2026-01-31 12:00", "2026-02-01 00:00"),
        ("30 4 1,15 * *", "2026-01-31 12:00", "2026-02-01 04:30"),
        ("0 0 29 2 *", "2026-01-31 12:00", "2028-02-29 00:00"),
        ("0 0 * * 0", "2026-01-31 12:00", "2026-02-01 00:00"),
        ("0 0 13 * 5", "2026-02-01 00:00", "2026-02-06 00:00"),
        ("0 22-23/1 * * *", "2026-01-31 22:30", "2026-01-31 23:00"),
        ("@monthly", "2026-01-31 12:00", "2026-02-01 00:00"),
    ],
)
def test_the_next_instant_is_found(text, after, expected):
    """The first one that is later; a day of the month or of the week is enough where both are given."""
    assert parse_schedule(text).next(instant(after)) == instant(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("* * * *", "expected exactly 5 fields, found 4"),
        ("x * * * *", "failed to parse minute from 'x'"),
        ("60 * * * *", "minute '60' is not within 0 and 59"),
        ("5-1 * * * *", "minute '5-1' is not within"),
        ("*/0 * * * *", r"minute '\*/0' is not within"),
    ],
)
def test_what_is_no_schedule_is_named(text, message):
    """The field and its text."""
    with pytest.raises(ValueError, match=message):
        parse_schedule(text)


def test_a_day_that_never_comes_is_found_out():
    """The 31st of February."""
    with pytest.raises(ValueError, match="never comes"):
        parse_schedule("0 0 31 2 *").next(0)
