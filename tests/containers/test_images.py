# ruff: noqa: F401 - imported tests are tests of this module
"""
The heart of the integration suite against the images of Vault, OpenBao and PostgreSQL.

All of it: `make test-containers`.
"""

from __future__ import annotations

import pytest

# The same tests, by the same names, with the fixtures of this folder.
from tests.integration.test_readme import test_the_twelve_lines
from tests.integration.test_vault_pool import (
    make_pool,
    test_a_lease_revoked_by_hand_is_replaced,
    test_rotations_by_the_leases_own_times_fail_no_request,
)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]
