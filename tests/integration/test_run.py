"""
pool.run: what is run again, and what is not.
"""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from tests.clients import Clients
from tests.role_source import RoleSource
from vault_pool import ConfigurationError, PoolTimeout, RenewalPolicy, VaultPool
from vault_pool.errors import VaultUnavailable


@pytest.fixture
def source(database):
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")
    database.execute("CREATE TABLE done (x int)")
    database.execute(f'GRANT ALL ON done TO "{database.group}"')
    return RoleSource(database)


@pytest.fixture
def make_pool(database, source):
    """Return a function that makes a pool of *source*'s roles."""

    def make(**options):
        policy = RenewalPolicy(requests_per_hour=360_000.0)
        return VaultPool(database.conninfo(), source=source, policy=policy, **{"min_size": 1, "max_size": 4, **options})

    return make


@pytest.fixture
def pool(no_leaks, make_pool):
    with make_pool() as pool:
        yield pool


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def attempts_of(action):
    """Return a function for run() that writes a row and then does *action* with (connection, number of attempt)."""
    seen = []

    def fn(conn):
        seen.append(conn)
        conn.execute("INSERT INTO done VALUES (%s)", [len(seen)])
        action(conn, len(seen))
        return len(seen)

    return fn, seen


def test_it_returns_what_the_function_returns_and_commits(pool, database):
    """In one transaction, also where the application's connections are in autocommit mode."""
    fn, _ = attempts_of(lambda conn, attempt: None)
    pool.kwargs = {"autocommit": True}
    pool.rotate()
    assert pool.run(fn) == 1
    assert database.execute("SELECT x FROM done") == [(1,)]


def test_a_revoked_credential_is_no_error_of_the_function(pool, source, database):
    """It is run again by the successor; what the first attempt wrote is gone."""

    def action(conn, attempt):
        if attempt == 1:
            source.take(conn.info.user)
            conn.execute("SELECT * FROM items")

    fn, seen = attempts_of(action)
    assert pool.run(fn) == 2
    assert seen[0] is not seen[1]
    assert database.execute("SELECT x FROM done") == [(2,)]


def test_whatever_the_function_makes_of_the_error(pool, source):
    """An application's own exception is run again as well, if its session showed the sign."""

    def action(conn, attempt):
        if attempt == 1:
            source.take(conn.info.user)
            try:
                conn.execute("SELECT * FROM items")
            except psycopg.Error:
                raise LookupError from None

    assert pool.run(attempts_of(action)[0]) == 2


def test_an_error_of_its_own_is_not_run_again(pool):
    """Neither a constraint's, nor a missing grant, nor a bug."""
    for error, query in (
        (psycopg.errors.UniqueViolation, "INSERT INTO items (id) VALUES (1)"),
        (psycopg.errors.InsufficientPrivilege, "CREATE ROLE mine"),
        (psycopg.errors.SyntaxError, "SELEC"),
    ):
        fn, seen = attempts_of(lambda conn, attempt, query=query: conn.execute(query))
        with pytest.raises(error):
            pool.run(fn)
        assert len(seen) == 1

    def bug(conn, attempt):
        raise ZeroDivisionError

    fn, seen = attempts_of(bug)
    with pytest.raises(ZeroDivisionError):
        pool.run(fn)
    assert len(seen) == 1
    assert pool.status().generation == 1


def test_a_lost_session_is_run_again_before_its_commit(pool, database):
    """The server rolled it back: COMMIT was never sent."""

    def action(conn, attempt):
        if attempt == 1:
            database.terminate()
            conn.execute("SELECT 1")

    assert pool.run(attempts_of(action)[0]) == 2
    assert database.execute("SELECT x FROM done") == [(2,)]


@pytest.mark.parametrize("asked", [False, True])
def test_an_unknown_commit_is_run_again_only_if_asked(pool, database, asked):
    """The session ends after COMMIT was sent and before its answer came: nobody knows."""
    database.execute(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN IF NEW.x = 1 THEN PERFORM pg_sleep(30); END IF; RETURN NULL; END'"
    )
    database.execute(
        "CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON done DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION cut()"
    )
    fn, seen = attempts_of(lambda conn, attempt: None)

    def cut():
        until(lambda: [s for s in database.sessions() if s.state == "active"])
        database.terminate()

    cutter = threading.Thread(target=cut)
    cutter.start()
    if asked:
        assert pool.run(fn, retry_unknown_commit=True) == 2
    else:
        with pytest.raises(psycopg.OperationalError):
            pool.run(fn)
        assert len(seen) == 1
    cutter.join()


@pytest.mark.parametrize("asked", [False, True])
def test_serialization_failures_are_run_again_only_if_asked(pool, database, asked):
    """Two transactions that read what the other writes: PostgreSQL refuses one of them."""

    def action(conn, attempt):
        if attempt == 1:
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            conn.execute("SELECT * FROM items")
            database.execute("UPDATE items SET name = 'other' WHERE id = 1")
        conn.execute("UPDATE items SET name = 'mine' WHERE id = 1")

    seen = []

    def fn(conn):
        seen.append(1)
        action(conn, len(seen))

    if asked:
        pool.run(fn, retry_serialization=True)
        assert len(seen) == 2
    else:
        with pytest.raises(psycopg.errors.SerializationFailure):
            pool.run(fn)


def test_attempts_and_time_are_bounded(pool, source, database):
    """The last error is raised, without those before it."""

    def always(conn, attempt):
        database.terminate()
        conn.execute("SELECT 1")

    fn, seen = attempts_of(always)
    with pytest.raises(psycopg.OperationalError):
        pool.run(fn, attempts=2)
    assert len(seen) == 2

    def revoked(conn, attempt):
        source.fault, source.faulty = VaultUnavailable("away"), {"read"}
        source.take(conn.info.user)
        conn.execute("SELECT * FROM items")

    began = time.monotonic()
    fn, seen = attempts_of(revoked)
    with pytest.raises(PoolTimeout):
        pool.run(fn, timeout=0.5)
    assert time.monotonic() - began < 2
    source.faulty = set()
    for setting in ({"attempts": 0}, {"timeout": 0}):
        with pytest.raises(ConfigurationError, match=next(iter(setting))):
            pool.run(fn, **setting)


def test_the_function_may_not_end_the_transaction(pool):
    """What it committed by itself would be written twice."""
    with pytest.raises(psycopg.ProgrammingError, match="Transaction"):
        pool.run(lambda conn: conn.commit())


def test_revocations_fail_no_transaction(no_leaks, make_pool, source):
    """8 threads on a pool of 4, five revocations without notice: every request is well."""
    with make_pool() as pool, Clients(pool, 8, run=True) as clients:
        for number in range(1, 6):
            done = clients.done
            until(lambda done=done: clients.done > done + 100)
            source.take(pool.status().user)
            until(lambda number=number: pool.status().generation > number)
    assert not clients.failed(), clients.failures()
