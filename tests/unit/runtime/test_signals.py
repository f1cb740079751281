"""
How often signs of a loss are inquired into: values, and time passed in.
"""

from __future__ import annotations

import pytest

from vault_pool.runtime.hot_swap.doubt import LONGEST_PAUSE, Doubt, Restraint, Sign, is_sign
from vault_pool.runtime.signals import Docket


@pytest.mark.parametrize(
    ("sqlstate", "sign"),
    [
        ("42501", True),  # insufficient_privilege
        ("42704", True),  # undefined_object
        ("28P01", True),  # invalid_password
        ("28000", True),
        (None, False),
        ("23505", False),
        ("40001", False),
        ("57P01", False),
    ],
)
def test_what_makes_one_doubt_a_role(sqlstate, sign):
    """Only what a dropped role's session may answer."""
    assert is_sign(sqlstate) is sign


def test_inquiries_that_find_nothing_become_rare():
    """A missing grant fails at full speed for days: the pauses double, up to five minutes."""
    restraint, now, asked = Restraint(), 0.0, []
    while now < 3600:
        if restraint.allows(now):
            restraint = restraint.asked(now)
            asked.append(now)
        now += 0.25

    assert asked[:5] == [0.0, 1.0, 3.0, 7.0, 15.0]
    assert len(asked) < 25


def test_inquiries_may_go_on_in_vain_for_ever():
    """The longest pause stays what it is, however many of them there were: a statement may fail for months."""
    restraint = Restraint()
    for _ in range(2000):
        asked_at = max(0.0, restraint.next_at)
        restraint = restraint.asked(asked_at)

    assert restraint.next_at == asked_at + LONGEST_PAUSE


def test_a_quiet_time_starts_over():
    """After it the next sign is inquired into as the first was."""
    restraint = Restraint().asked(0.0).asked(1.0).asked(3.0)
    assert restraint.asked(restraint.next_at + LONGEST_PAUSE).in_vain == 1
    assert restraint.asked(restraint.next_at).in_vain == 4


def test_a_doubt_is_ended_by_an_answer_to_a_later_question():
    """What a session said before Vault had dropped the role proves nothing; a lasting doubt has no end."""
    assert not Doubt(10.0).ends_by(9.9)
    assert Doubt(10.0).ends_by(10.0)
    assert not Doubt(lasting=True).ends_by(1e9)


def test_signs_of_one_kind_do_not_hide_another():
    """Statements that lack a grant must not delay the news that logins are refused."""
    docket = Docket().heard(Sign.STATEMENT, 0.0)
    assert docket.heard(Sign.STATEMENT, 0.5) is None
    assert docket.heard(Sign.REFUSAL, 0.5) is not None


def test_a_lookup_is_due_an_interval_after_the_lease_came():
    """A new lease starts a new interval."""
    due, docket = Docket().due("a", 0.0, 60.0)
    assert not due
    assert not docket.due("a", 59.0, 60.0)[0]
    due, docket = docket.due("a", 60.0, 60.0)
    assert (due, docket.lookup_at) == (True, 120.0)
    due, docket = docket.due("b", 130.0, 60.0)
    assert (due, docket.lookup_at) == (False, 190.0)
