"""
The same fixtures as everywhere, from images.
"""

from __future__ import annotations

import pytest

from tests.fix_containers import POSTGRES_IMAGES, VAULT_IMAGES, postgres_container, vault_container


@pytest.fixture(scope="session", params=list(zip(VAULT_IMAGES, POSTGRES_IMAGES, strict=True)), ids=" ".join)
def images(request):
    """An image of Vault and one of PostgreSQL."""
    return request.param


@pytest.fixture(scope="session")
def postgres(images):
    with postgres_container(images[1]) as server:
        yield server


@pytest.fixture(scope="session")
def vault_process(images):
    with vault_container(images[0]) as server:
        yield server
