"""
The watcher and credentials without leases, step by step: no thread, no clock.
"""

from __future__ import annotations

import json
import logging

import pytest

from tests.unit.runtime.stepped import SteppedRuntime
from tests.unit.runtime.test_watcher import Pool
from vault_pool.core.policy import RenewalPolicy
from vault_pool.errors import LoginFailed, SourceError
from vault_pool.runtime.watcher import Watcher
from vault_pool.sources.agent_file import AgentFile
from vault_pool.sources.callback import Callback
from vault_pool.sources.fixed import Fixed


class Place:
    """Where the application's function finds its credential."""

    def __init__(self):
        self.user, self.looks, self.broken = "a", 0, False

    def look(self):
        self.looks += 1
        if self.broken:
            raise OSError
        return self.user, "pw"


@pytest.fixture
def runtime():
    return SteppedRuntime()


@pytest.fixture
def place():
    return Place()


@pytest.fixture
def watcher(place, runtime):
    """A watcher of a source that is looked at every 60 s, and a pool that it serves."""
    watcher = Watcher(Callback(place.look, interval=60, name="place"), RenewalPolicy(), runtime)
    watcher.pool = Pool()
    watcher.attach(watcher.pool)
    runtime.settle()
    return watcher


def test_only_a_change_makes_a_generation(watcher, place, runtime):
    """However often it is looked at."""
    runtime.advance(600.0)
    assert (place.looks, watcher.pool.installed) == (11, ["a"])
    place.user = "b"
    runtime.advance(60.0)
    assert (place.looks, watcher.pool.installed) == (12, ["a", "b"])


def test_who_asks_for_a_rotation_gets_one(watcher, place, runtime):
    """Also where the credential is the same, and also when a look was on its way already; one each time."""
    watcher.rotate()
    runtime.settle()
    assert watcher.pool.installed == ["a", "a"]
    runtime.instant += 60.0
    runtime.decide()
    assert len(runtime.jobs) == 1
    watcher.rotate()
    runtime.settle()
    assert watcher.pool.installed == ["a", "a", "a"]
    runtime.advance(300.0)
    assert watcher.pool.installed == ["a", "a", "a"]
    assert place.looks == 8


def test_what_was_replaced_needs_no_end(watcher, place, runtime):
    """Nothing is renewed while its sessions are out, and nothing revoked when they are back."""
    place.user = "b"
    runtime.advance(120.0)
    assert [state.phase.value for state in watcher.endings] == ["retiring"]
    watcher.pool.finishers.pop()()
    runtime.settle()
    assert watcher.endings == []


def test_a_look_that_fails_takes_nothing_away(watcher, place, runtime, caplog):
    """The log says that the credential serves on, once, and once that things are well again."""
    caplog.set_level(logging.INFO, logger="vault_pool")
    place.broken = True
    runtime.advance(600.0)
    assert (watcher.pool.installed, watcher.pool.vacated, watcher.state.serving) == (["a"], 0, True)
    assert isinstance(watcher.pool.reports[-1], SourceError)
    place.broken = False
    runtime.advance(30.0)
    first, last = (record.getMessage() for record in caplog.records)
    assert first == "place: place raised OSError; trying again, the credential serves on"
    assert last.startswith("place: well again")
    assert watcher.pool.reports[-1] is None


def test_a_credential_that_a_later_pool_cannot_use_is_looked_at(watcher, place, runtime):
    """Those who serve by it may not log in for hours, and hence not notice that its password was changed."""
    place.user = "b"
    late = Pool("late")
    late.fault = LoginFailed("password authentication failed", refused=True)
    watcher.attach(late)
    runtime.decide()
    runtime.work()  # the late pool's own attempt
    late.fault = None
    runtime.settle()
    assert watcher.pool.installed == ["a", "b"]
    assert late.installed == ["b"]


def test_a_broken_file_is_taken_within_its_interval_after_an_hour(tmp_path, runtime):
    """A file costs nobody anything: no pause grows."""
    path = tmp_path / "db.json"
    watcher, pool = Watcher(AgentFile(path, interval=1.0), RenewalPolicy(), runtime), Pool()
    watcher.attach(pool)
    runtime.advance(3600.0)
    path.write_text(json.dumps({"username": "a", "password": "p"}))
    runtime.advance(1.0)
    assert pool.installed == ["a"]


def test_a_fixed_user_is_read_once(runtime):
    """And once more for each rotation by hand."""
    watcher, pool = Watcher(Fixed("a", "pw"), RenewalPolicy(), runtime), Pool()
    watcher.attach(pool)
    runtime.settle()
    assert runtime.upcoming is None
    watcher.rotate()
    runtime.settle()
    assert pool.installed == ["a", "a"]
    assert runtime.upcoming is None
