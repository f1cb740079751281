"""
Two pools on one source: a primary and a replica.
"""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from tests.clients import Clients
from tests.role_source import RoleSource
from vault_pool import ProofFailed, RenewalPolicy, VaultPool


@pytest.fixture
def source(database):
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")
    return RoleSource(database)


@pytest.fixture
def make_pool(database, source):
    """Return a function that makes a pool of *source*'s roles."""

    def make(conninfo=None, **options):
        policy = RenewalPolicy(requests_per_hour=360_000.0, backoff_base=0.1, backoff_cap=0.5)
        options = {"min_size": 1, "max_size": 2, "policy": policy, **options}
        return VaultPool(conninfo or database.conninfo(), source=source, **options)

    return make


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def test_the_lease_is_revoked_when_both_have_let_go(no_leaks, make_pool, source):
    """One of them is slower."""
    with make_pool() as primary, make_pool() as replica:
        old = primary.status().user
        first, second = primary.getconn(), replica.getconn()
        primary.rotate()
        until(lambda: replica.status().generation == 2)
        assert primary.status().user == replica.status().user != old
        primary.putconn(first)
        until(lambda: not primary.status().retiring)
        time.sleep(0.1)
        assert source.dropped == []
        replica.putconn(second)
        until(lambda: source.dropped == [old])


def test_both_prove_the_successor_before_either_swaps(no_leaks, make_pool, source):
    """What one of them may not use, none of them gets."""
    with make_pool() as primary, make_pool() as replica:
        prepare, refuse = replica._tenant.prepare, [True]

        def refusing(credential):
            if refuse:
                raise ProofFailed("the replica has not heard of it")
            return prepare(credential)

        replica._tenant.prepare = refusing
        with pytest.raises(ProofFailed):
            primary.rotate(timeout=3)
        assert primary.status().generation == replica.status().generation == 1
        refuse.clear()
        until(lambda: primary.status().generation == replica.status().generation == 2)
        assert primary.status().user == replica.status().user


def test_one_that_closes_in_the_middle_of_a_rotation_holds_up_nobody(no_leaks, make_pool, source, caplog):
    """The other swaps by the same read, and nothing is left."""
    primary, replica = make_pool(), make_pool()
    reached, go_on = threading.Event(), threading.Event()
    with primary:
        replica.open()
        prepare = replica._tenant.prepare

        def gated(credential):
            reached.set()
            assert go_on.wait(10)
            return prepare(credential)

        replica._tenant.prepare = gated
        rotation = threading.Thread(target=primary.rotate)
        rotation.start()
        assert reached.wait(10)
        closer = threading.Thread(target=replica.close)
        closer.start()
        until(lambda: replica.closed)
        go_on.set()
        rotation.join(10)
        closer.join(10)
        assert primary.status().generation == 2
        assert source.requests["read"] == 2
        assert not [record for record in caplog.records if "trying again" in record.getMessage()]
    assert not source.live


def test_a_revocation_that_one_meets_is_both_pools_business(no_leaks, make_pool, source):
    """The idle one gets the successor without having seen an error."""
    with make_pool() as primary, make_pool() as replica:
        source.take(primary.status().user)
        with pytest.raises(psycopg.errors.InsufficientPrivilege), primary.connection() as conn:
            conn.execute("SELECT * FROM items")
        with replica.connection() as conn:
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (100,)
        until(lambda: primary.status().generation == replica.status().generation == 2)
        assert source.requests["read"] == 2


def test_rotations_under_load_on_both(no_leaks, make_pool, source):
    """No request of either fails, and every old role is dropped."""
    primary, replica = make_pool(max_size=4), make_pool(max_size=4)
    with primary, replica, Clients(primary, 3) as first, Clients(replica, 3) as second:
        for _ in range(5):
            primary.rotate()
        until(lambda: len(source.dropped) == 5)
    assert not first.failures() + second.failures()
    assert len(first.requests) > 50
    assert not source.live
