"""
HotSwapPool and VaultPool have all that psycopg_pool's pool has.
"""

from __future__ import annotations

import inspect

import pytest
from psycopg_pool import ConnectionPool

from vault_pool import Fixed, HotSwapPool, VaultPool

PUBLIC = sorted(
    {name for name in dir(ConnectionPool) if not name.startswith("_")}
    | {name for name in vars(ConnectionPool("", open=False)) if not name.startswith("_")}
)


@pytest.mark.parametrize("ours", [HotSwapPool, VaultPool])
@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(ours, name):
    """When psycopg_pool grows a public name, this fails until we have it."""
    assert name in dir(ours)


METHODS = [name for name in PUBLIC if inspect.isfunction(inspect.getattr_static(ConnectionPool, name, None))]


@pytest.mark.parametrize("name", METHODS)
def test_methods_take_the_same_arguments(name):
    """Names, kinds and defaults are psycopg_pool's."""
    theirs = inspect.signature(getattr(ConnectionPool, name)).parameters.values()
    ours = inspect.signature(getattr(HotSwapPool, name)).parameters.values()

    assert [(p.name, p.kind, p.default) for p in theirs] == [(p.name, p.kind, p.default) for p in ours]


def test_the_constructor_of_a_vault_pool_takes_the_same_arguments():
    """With the same defaults, but for open: a VaultPool never opens itself."""
    theirs = dict(inspect.signature(ConnectionPool).parameters)
    ours = inspect.signature(VaultPool).parameters
    del theirs["open"]

    assert {name: p.default for name, p in theirs.items()} == {name: ours[name].default for name in theirs}


def test_the_constructor_of_a_hot_swap_pool_refuses_other_arguments():
    """Exactly psycopg_pool's, besides overlap and retire_timeout."""
    with pytest.raises(TypeError, match="nonsense"):
        HotSwapPool("", nonsense=1, open=False)


def test_a_ready_pool_brings_its_own_settings():
    """Settings beside a ready pool would have no effect: they are an error."""
    ready = ConnectionPool("", open=False)
    with pytest.raises(ValueError, match="ready pool"):
        HotSwapPool(ready, min_size=3)


def test_settings_can_be_read_and_changed():
    """They are those of the pool inside."""
    pool = HotSwapPool("dbname=x", open=False, min_size=1, max_size=3, timeout=7.0, name="mine", kwargs={"a": 1})
    pool.timeout = 8.0
    pool.max_waiting = 5

    assert (pool.name, pool.min_size, pool.max_size, pool.timeout, pool.max_waiting) == ("mine", 1, 3, 8.0, 5)
    assert ("dbname=x", {"a": 1}, ConnectionPool("", open=False).connection_class) == (
        pool.conninfo,
        pool.kwargs,
        pool.connection_class,
    )
    assert pool.closed


@pytest.mark.parametrize("sizes", [(5, 2), (-1, 3), (0, 0)])
def test_a_size_that_no_pool_could_have_is_refused_before_there_is_one(sizes):
    """Else the pool could not be opened, and nobody would know why."""
    pool = VaultPool("", source=Fixed("app", "x"), min_size=1)
    with pytest.raises(ValueError, match=r"min_size|max_size"):
        pool.resize(*sizes)
    assert (pool.min_size, pool.max_size) == (1, 1)


def test_it_is_never_falsy():
    """Django tests `if self.pool`."""
    assert HotSwapPool("", open=False)
