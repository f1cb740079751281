"""
A short run of chaos, by a schedule that is always the same.
"""

from __future__ import annotations

import pytest

from tests.chaos import FAULTS, run, schedule


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_every_fault_strikes_and_costs_no_more_than_was_promised():
    """Each fault once, at a quarter of its length; what fails was in flight, and nothing stays behind."""
    report = run("devserver", seed=7, seconds=0.0, pace=0.25)
    assert report.clean, str(report)


def test_a_seed_decides_the_schedule():
    """The same one gives the same schedule, another one another, and each has every fault."""
    one, other = schedule(1, 600.0, FAULTS), schedule(2, 600.0, FAULTS)
    assert one == schedule(1, 600.0, FAULTS)
    assert one != other
    assert {strike.fault for strike in one} == {strike.fault for strike in other} == set(FAULTS)
    assert one[-1].at + one[-1].seconds < 600.0
