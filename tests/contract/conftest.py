"""
A PostgreSQL for replaying, and the committed recordings.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.world import logging_postgres
from vault_pool.devserver.postgres import EmbeddedPostgres


@pytest.fixture(scope="package")
def recorded_postgres() -> Iterator[EmbeddedPostgres]:
    """One server for all scenarios, each of which makes its own database; it logs every statement."""
    with logging_postgres() as postgres:
        yield postgres
