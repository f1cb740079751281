"""
A pool as its watcher sees it, without a database: no connection is opened.
"""

from __future__ import annotations

import threading

import pytest
from psycopg_pool import PoolClosed

from tests.unit.runtime.stepped import SteppedRuntime
from vault_pool import Credential, Fixed, RenewalPolicy, VaultPool, pool as pool_module
from vault_pool.runtime.watcher import Watcher


@pytest.fixture
def runtime():
    return SteppedRuntime()


@pytest.fixture
def pool(runtime):
    """A pool that is open, and waits for its first credential."""
    source = Fixed("user", "password")
    pool = VaultPool("", source=source, min_size=0, max_size=1, runtime=runtime)
    pool._watcher = Watcher(source, RenewalPolicy(), runtime)
    yield pool
    pool.close(timeout=0.0)


def prepared(pool):
    """A generation that has not been installed."""
    return pool._blueprint.build(1, pool._budget, credential=Credential("user", "password"), open=True)


def test_a_pool_that_closes_during_a_swap_keeps_no_generation(no_leaks, pool, runtime, monkeypatch):
    """The swap comes first, and closing retires the new generation; or closing does, and it is given up."""
    fresh, finished, replace = prepared(pool), [], pool._replace
    closing = threading.Thread(target=pool.close, args=[0.0])

    def replacing(generation):
        closing.start()
        closing.join(0.2)
        return replace(generation)

    monkeypatch.setattr(pool, "_replace", replacing)
    pool._tenant.install(fresh, lambda: finished.append(1))
    closing.join(10)
    runtime.settle()

    assert finished == [1]
    assert fresh.pool.closed
    assert pool._current is None


@pytest.mark.parametrize("ask", ["wait", "rotate"])
def test_who_waits_for_a_pool_that_is_closed_hears_of_that(pool, monkeypatch, ask):
    """At once, and not of a time that has not passed."""
    closing = threading.Thread(target=pool.close, args=[0.0])
    once = iter([closing.start])
    # With the pool's lock held, so that it closes in the middle of the wait.
    monkeypatch.setattr(pool_module, "_hopeless", lambda _error: next(once, bool)())
    monkeypatch.setattr(pool._watcher, "rotate", closing.start)

    with pytest.raises(PoolClosed, match="closed"):
        getattr(pool, ask)(timeout=60.0)
    closing.join()
