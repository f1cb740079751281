"""
What psycopg can do, across a swap: what moves over to the new credential, and what stays with the session.
"""

from __future__ import annotations

import time

import psycopg
import pytest
from psycopg.rows import dict_row, scalar_row

from tests.fix_postgres import Database
from tests.swapping import pool_of


@pytest.fixture
def shop(shared_database):
    return shared_database


class Named(psycopg.Connection):
    """A connection class of the application."""

    def greeting(self):
        return f"hello {self.info.user}"


class Shouting(psycopg.ClientCursor):
    """A cursor class of the application."""


# --- What is configured moves over: each generation is built from it -----------------------------------------


def test_factories_classes_and_autocommit_are_those_of_each_generation(shop):
    """row_factory, cursor_factory, connection_class, autocommit, prepare_threshold and options."""
    kwargs = {
        "row_factory": dict_row,
        "cursor_factory": Shouting,
        "autocommit": True,
        "prepare_threshold": 1,
        "options": "-c statement_timeout=1234",
    }
    with pool_of(shop, kwargs=kwargs, connection_class=Named) as pool:
        for _ in range(2):
            with pool.connection() as conn:
                cursor = conn.execute("SELECT current_user AS me, current_setting('statement_timeout') AS patience")
                assert cursor.fetchone() == {"me": pool.status().user, "patience": "1234ms"}
                assert isinstance(cursor, Shouting)
                assert conn.greeting() == f"hello {pool.status().user}"
                assert conn.autocommit
                assert conn.prepare_threshold == 1
            pool.rotate()


def test_configure_check_and_reset_are_called_in_each_generation(shop):
    """What the application prepares, looks at and cleans up, it does with sessions of every credential."""
    calls = []

    def configure(conn):
        calls.append(("configure", conn.info.user))
        conn.execute("SET search_path TO public, pg_temp")
        conn.commit()

    pool = pool_of(
        shop,
        max_size=1,
        configure=configure,
        check=lambda conn: calls.append(("check", conn.info.user)),
        reset=lambda conn: calls.append(("reset", conn.info.user)),
    )
    with pool as pool:
        users = []
        for _ in range(2):
            users.append(pool.status().user)
            with pool.connection() as conn:
                assert conn.execute("SHOW search_path").fetchone() == ("public, pg_temp",)
            deadline = time.monotonic() + 5
            while ("reset", users[-1]) not in calls and time.monotonic() < deadline:
                time.sleep(0.01)
            pool.rotate()

    assert {call for call in calls if call[1] in users} == {
        (what, user) for what in ("configure", "check", "reset") for user in users
    }


# --- What is under way ends where it began --------------------------------------------------------------------


def test_pipelines_copies_and_cursors_go_on_through_a_rotation(shop):
    """Whatever a borrowed connection does, it goes on doing with its own session; the next checkout is another's."""
    with pool_of(shop) as pool, pool.connection() as conn:
        first = pool.status().user
        with conn.pipeline():
            begun = conn.execute("SELECT 1")
            pool.rotate()
            ended = conn.execute("SELECT current_user")
            assert begun.fetchone() == (1,)
            assert ended.fetchone() == (first,)
        cursor = conn.cursor()
        with cursor.copy("COPY items (name) FROM STDIN") as copy:
            copy.write_row(("before",))
            pool.rotate()
            copy.write_row(("after",))
        with conn.cursor(name="many", row_factory=scalar_row) as many:
            many.execute("SELECT name FROM items WHERE name IN ('before', 'after') ORDER BY id")
            rows = many.fetchmany(1)
            pool.rotate()
            assert rows + many.fetchall() == ["before", "after"]
        with pool.connection() as other:
            assert other.info.user not in (first, None)


def test_prepared_statements_are_prepared_again(shop):
    """They belong to a session; psycopg prepares them anew in the next one, by itself."""
    with pool_of(shop, max_size=1, kwargs={"prepare_threshold": 0}) as pool:
        for _ in range(2):
            with pool.connection() as conn:
                conn.execute("SELECT %s::int", (1,))
                prepared = conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
                assert prepared >= (1,)
            pool.rotate()


# --- What belongs to a session stays there ---------------------------------------------------------------------


def test_what_a_session_was_told_is_gone_with_it(shop):
    """SET, temporary tables, advisory locks: for all sessions, say it in `configure` or in `options`."""
    with pool_of(shop, max_size=1, kwargs={"autocommit": True}) as pool:
        with pool.connection() as conn:
            conn.execute("SET statement_timeout = 777")
            conn.execute("CREATE TEMPORARY TABLE mine (id int)")
            conn.execute("SELECT pg_advisory_lock(42)")
        pool.rotate()
        with pool.connection() as conn:
            assert conn.execute("SHOW statement_timeout").fetchone() != ("777ms",)
            assert conn.execute("SELECT to_regclass('mine')").fetchone() == (None,)
            # Free as soon as the old session has ended.
            conn.execute("SET lock_timeout = '10s'")
            conn.execute("SELECT pg_advisory_lock(42)")


def test_a_listener_hears_for_as_long_as_it_keeps_its_connection(shop):
    """LISTEN is a session's: rotations leave it alone, and whoever comes back for another connection listens again."""
    with pool_of(shop, kwargs={"autocommit": True}) as pool:
        with pool.connection() as listener:
            listener.execute("LISTEN news")
            for payload in ("one", "two"):
                with pool.connection() as conn:
                    conn.execute("SELECT pg_notify('news', %s)", (payload,))
                heard = [notify.payload for notify in listener.notifies(timeout=5, stop_after=1)]
                assert heard == [payload]
                pool.rotate()
        with pool.connection() as conn:
            assert conn.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)


@pytest.fixture
def preparing(private_postgres):
    """A database whose server allows two-phase commits."""
    with private_postgres.connect(autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET max_prepared_transactions = 5")
    private_postgres.restart()
    database = Database(private_postgres)
    yield database
    database.drop()


def prepare(pool, name):
    """Prepare a transaction, and return it as the next user finds it."""
    with pool.connection() as conn:
        conn.tpc_begin(conn.xid(1, name, "items"))
        conn.execute("INSERT INTO items (name) VALUES (%s)", (name,))
        conn.tpc_prepare()
    pool.rotate()


def test_a_connection_that_prepared_a_transaction_serves_on(preparing):
    """Whoever borrows it next has nothing to do with that transaction."""
    with pool_of(preparing, min_size=1, max_size=1) as pool:
        with pool.connection() as conn:
            conn.tpc_begin(conn.xid(1, "left", "items"))
            conn.execute("INSERT INTO items (name) VALUES ('left')")
            conn.tpc_prepare()
        with pool.connection() as conn:
            (found,) = conn.tpc_recover()
            conn.tpc_rollback(found)


def test_a_transaction_prepared_by_one_user_is_committed_by_the_next(preparing):
    """Two-phase commit: whoever prepared it may finish it, so both have to act as the same role."""
    with pool_of(preparing, assume_role=preparing.group) as pool:
        prepare(pool, "assumed")
        with pool.connection() as conn:
            (found,) = conn.tpc_recover()
            conn.tpc_commit(found)
    with pool_of(preparing) as pool:
        prepare(pool, "not assumed")
        with pool.connection() as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.tpc_commit(conn.tpc_recover()[0])
        with preparing.server.connect(autocommit=True, dbname=preparing.name) as conn:
            (found,) = conn.tpc_recover()
            conn.tpc_rollback(found)

    assert preparing.execute("SELECT name FROM items ORDER BY id DESC LIMIT 1") == [("assumed",)]
