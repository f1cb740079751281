"""The exact arithmetic of the timing rules."""

from __future__ import annotations

import pytest

from tests.unit.core.lives import CORE
from tests.unit.core.table import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_rule(check):
    """Each rule of the table holds; its own docstring states it."""
    check(CORE)
