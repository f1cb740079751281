"""
When a demo ends, and what it comes to.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import pytest
from click.testing import CliRunner

from vault_pool import VaultDenied
from vault_pool.cli.demo.command import Goal, Interruption, demo
from vault_pool.cli.demo.measurements import WINDOW, Measurements
from vault_pool.cli.demo.stage import Stage, own_environment
from vault_pool.cli.demo.summary import Result


def result(**changes):
    """What an interrupted demo comes to, with *changes*."""
    made = Result.of(Measurements(), seconds=0.0, renewals=0, roles=0, leases=0, peak=0)
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("duration", "rotations", "expected"), [(None, None, 60.0), (30.0, None, 30.0), (5.0, 3, 5.0), (None, 3, 64.0)]
)
def test_the_goal_has_an_end_in_any_case(duration, rotations, expected):
    """A minute; what was asked for; or, for rotations, twice the time that they may take."""
    assert Goal.of(duration, rotations).duration == expected


def test_the_window_of_the_last_rotation_is_waited_for():
    """The demo does not end in the middle of what it measures."""
    measured, goal = Measurements(), Goal.of(None, 2)
    measured.began = 0.0
    measured.rotated(4.0)
    assert not goal.reached(measured, 9.0)
    measured.rotated(8.0)
    assert not goal.reached(measured, 8.0 + WINDOW / 2)
    assert goal.reached(measured, 8.1 + WINDOW)


def test_time_ends_it_whatever_is_missing():
    """The duration goes before the rotations."""
    measured = Measurements()
    measured.began = 0.0
    assert Goal.of(5.0, 100).reached(measured, 5.0)


@pytest.mark.parametrize("left", ["failed", "roles_left", "leases_left"])
def test_a_failure_or_a_leftover_is_not_clean(left):
    """Any of the three is one too many."""
    assert result().clean
    assert not result(**{left: 1}).clean


def test_a_result_without_figures_can_be_printed():
    """Interrupted at once: the JSON has nulls, the summary dashes."""
    made = json.loads(json.dumps(result().mapping()))
    assert made["gap_ms"] is None
    assert made["window_seconds"] == WINDOW
    assert any("-" in words for _, words in result().lines())


def test_a_failure_is_named_in_the_summary():
    """With how often it happened."""
    assert ("", "2 x 503 PoolTimeout None") in result(failures={"503 PoolTimeout None": 2}).lines()


def test_the_first_signal_asks_and_the_second_insists():
    """Ctrl-C ends the demo in order; again, at once. The handlers from before come back."""
    before = signal.getsignal(signal.SIGTERM)
    interruption = Interruption()
    with interruption.handling():
        signal.raise_signal(signal.SIGTERM)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_users_environment_is_hidden_and_comes_back(monkeypatch):
    """Somebody's own Vault, PostgreSQL and proxies do not meet the demo's."""
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("BAO_NAMESPACE", "team")
    monkeypatch.setenv("http_proxy", "http://192.0.2.1")
    with own_environment():
        assert not {"PGSSLMODE", "BAO_NAMESPACE", "http_proxy"} & set(os.environ)
    assert os.environ["PGSSLMODE"] == "require"


@pytest.mark.parametrize(
    "error", [VaultDenied("no such policy"), RuntimeError("no such policy"), OSError("no such policy")]
)
def test_a_demo_that_cannot_start_says_so_in_one_line(monkeypatch, error):
    """Exit 2, nothing on stdout, no traceback."""

    def fail(_):
        raise error

    monkeypatch.setattr(Stage, "__enter__", fail)
    answer = CliRunner().invoke(demo, ["--json"])
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert answer.stderr.splitlines()[1:] == ["Error: the demo cannot start: no such policy"]


def test_of_a_long_error_both_ends_are_kept(monkeypatch):
    """A server's log begins with what failed and ends with why."""

    def fail(_):
        raise RuntimeError("PostgreSQL did not start:\n" + "noise\n" * 300 + "no space left")

    monkeypatch.setattr(Stage, "__enter__", fail)
    line = CliRunner().invoke(demo, []).stderr.rstrip("\n")
    assert line.startswith("Error: the demo cannot start: PostgreSQL did not start: noise")
    assert line.endswith("no space left")
    assert len(line) < 400
