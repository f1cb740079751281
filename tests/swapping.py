"""
A pool without a Vault whose credential is replaced again and again, each old role dropped after it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from tests.fix_postgres import Database
from tests.role_source import RoleSource
from vault_pool import VaultPool


@contextlib.contextmanager
def pool_of(database: Database, **options: Any) -> Iterator[VaultPool]:
    """An open pool of a database's own roles, and `pool._source.dropped` the ones that are gone."""
    source = RoleSource(database)
    settings = {"min_size": 1, "max_size": 4, "timeout": 10.0, **options}
    with VaultPool(database.conninfo(), source=source, **settings) as pool:
        yield pool


@contextlib.contextmanager
def swapping(pool: VaultPool, every: float = 0.3) -> Iterator[list[int]]:
    """Rotate *pool* again and again, *every* so many seconds; yield the list of generations that grows meanwhile."""
    stop = threading.Event()
    generations: list[int] = []
    trouble: list[BaseException] = []

    def swap() -> None:
        while not stop.wait(every):
            try:
                pool.rotate(timeout=10)
            except Exception as error:  # noqa: BLE001 - for the one who waits
                trouble.append(error)
                return
            generations.append(pool.status().generation)

    thread = threading.Thread(target=swap, name="swapping", daemon=True)
    thread.start()
    try:
        yield generations
    finally:
        stop.set()
        thread.join(20)
        if trouble:
            raise trouble[0]
