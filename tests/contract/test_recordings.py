"""
The development server answers what real servers answered. `make contract` does the same, and on the system's clock.
"""

from __future__ import annotations

import pytest

from tests.contract.exceptions import KNOWN
from tests.contract.recording import IMITATED, Scenario, choose, load, recordings
from tests.contract.replay import replay
from tests.contract.servers import find_binary

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_ALL = [scenario for path in recordings() for scenario in load(path)]
_BY_NAME = {str(scenario): scenario for scenario in _ALL}


@pytest.mark.parametrize("scenario", choose(_ALL, IMITATED), ids=str)
def test_the_development_server_agrees_with_the_recording(scenario: Scenario, recorded_postgres):
    """Statuses, bodies, times, statements and the database are as they were with the real server."""
    found = [one for one in replay(scenario, recorded_postgres, manual=True) if not one.reason]
    assert not found, "\n".join(map(str, found))


@pytest.mark.contract
@pytest.mark.parametrize(("name", "flavor"), [("bao", "openbao"), ("vault", "vault")])
def test_the_real_server_agrees_with_its_own_recording(name: str, flavor: str, recorded_postgres):
    """The replayer finds nothing where there is nothing to be found."""
    if find_binary(name) is None:
        pytest.skip(f"no `{name}` on PATH nor in VAULT_POOL_TEST_VAULT_BIN")
    scenario = _BY_NAME[f"{flavor}-policies"]
    # By the real clock, and in whole seconds: on a busy machine one may pass between two requests. Not twice there.
    for _ in range(3):
        found = replay(scenario, recorded_postgres, kind=name)
        if not found:
            break
    assert not found, "\n".join(map(str, found))


def test_every_known_difference_is_of_a_recorded_line():
    """The list of exceptions is short, and none of them has lost its line."""
    lines = {(scenario.flavor, line["id"]) for scenario in _ALL for line in scenario.lines}
    assert lines >= KNOWN.keys()
    assert len(KNOWN) <= 5
    assert all(KNOWN.values())
