"""
assume_role: sessions act as a stable role, whatever user they logged in as.
"""

from __future__ import annotations

import socket
import struct
import threading
import time

import psycopg
import pytest

from tests.clients import Clients
from tests.role_source import RoleSource
from vault_pool import ConfigurationError, RenewalPolicy, VaultPool


@pytest.fixture
def source(database):
    database.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 100) n")
    return RoleSource(database)


@pytest.fixture
def make_pool(database, source):
    """Return a function that makes a pool of *source*'s users, which act as the database's group."""

    def make(conninfo=None, **options):
        policy = RenewalPolicy(requests_per_hour=360_000.0, backoff_base=0.1, backoff_cap=0.5)
        options = {"min_size": 1, "max_size": 4, "assume_role": database.group, "policy": policy, **options}
        return VaultPool(conninfo or database.conninfo(), source=source, **options)

    return make


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def names(conn):
    """Return (session_user, current_user)."""
    return conn.execute("SELECT session_user, current_user").fetchone()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kwargs": {"options": "-c statement_timeout=12345 -c application_name=mine"}},
        {"conninfo": "options='-c statement_timeout=12345'"},
    ],
)
def test_sessions_act_as_the_role_and_come_back_to_it(no_leaks, make_pool, source, database, options):
    """After RESET ROLE and DISCARD ALL as well; the application's own options hold."""
    if "conninfo" in options:
        options = {"conninfo": f"{database.conninfo()} {options['conninfo']}"}
    with make_pool(**options) as pool, pool.connection() as conn:
        user = pool.status().user
        assert names(conn) == (user, database.group)
        conn.execute("RESET ROLE")
        assert names(conn) == (user, database.group)
        conn.commit()
        conn.autocommit = True
        conn.execute("DISCARD ALL")
        assert names(conn) == (user, database.group)
        timeout = conn.execute("SHOW statement_timeout").fetchone()[0]
        assert timeout == ("12345ms" if options else "0")
        conn.autocommit = False


def test_a_name_with_spaces_and_quotes(no_leaks, make_pool, database):
    """Whatever a role may be called."""
    name = "odd \"one\\ 's"
    database.execute('CREATE ROLE "odd ""one\\ \'s"')
    try:
        database.execute(f'GRANT "odd ""one\\ \'s" TO "{database.group}"')
        with make_pool(assume_role=name) as pool, pool.connection() as conn:
            assert names(conn)[1] == name
    finally:
        database.execute('DROP ROLE "odd ""one\\ \'s"')


@pytest.mark.parametrize("role", ["missing", "foreign"])
def test_a_role_that_may_not_be_assumed_is_named(no_leaks, make_pool, database, role):
    """At once, with what to grant; PostgreSQL tells the client nothing of it."""
    name = f"{role}_{database.name}"
    if role == "foreign":
        database.execute(f'CREATE ROLE "{name}"')
    pool = make_pool(assume_role=name)
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match=name) as caught:
        pool.open()
    assert time.monotonic() - began < 3
    assert ("GRANT" in str(caught.value)) == (role == "foreign")
    if role == "foreign":
        database.execute(f'DROP ROLE "{name}"')


def test_a_user_that_acts_as_another_role_by_itself(no_leaks, make_pool, database, source):
    """ALTER ROLE ... SET role, in the creation statements: the error names the setting."""
    read = source.read

    def read_altered(now):
        issued = read(now)
        database.superuser_execute(f'ALTER ROLE "{issued.credential.user}" SET role = "{database.group}"')
        return issued

    source.read = read_altered
    pool = make_pool(assume_role=None)
    with pytest.raises(psycopg.OperationalError, match=f"assume_role='{database.group}'"):
        pool.open(timeout=0.5)
    with make_pool() as pool, pool.connection() as conn:
        assert names(conn)[1] == database.group


@pytest.mark.parametrize("name", ["", "none", "NONE", 7])
def test_names_that_cannot_be_a_role(make_pool, name):
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match="assume_role"):
        make_pool(assume_role=name)


def test_max_lapse_needs_an_assumed_role(make_pool):
    """Without one Vault's dropping the role ends the sessions by itself."""
    with pytest.raises(ConfigurationError, match="assume_role"):
        make_pool(assume_role=None, max_lapse=10.0)
    with pytest.raises(ConfigurationError, match="max_lapse"):
        make_pool(max_lapse=0.0)


# --- Poolers -----------------------------------------------------------------------------------------------


class Pooler:
    """
    A relay in front of PostgreSQL that does with the startup parameter `options` what poolers do.

    "refuse" it, as PgBouncer does, or "drop" it silently.
    """

    def __init__(self, host, port, habit):
        self.target, self.habit = (host, port), habit
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client):
        with client:
            packet = self._packet(client)
            while struct.unpack("!I", packet[4:8])[0] in (80877103, 80877104):  # TLS, GSSAPI
                client.sendall(b"N")
                packet = self._packet(client)
            words = packet[8:].split(b"\0")
            given = dict(zip(words[::2], words[1::2], strict=False))
            if b"options" in given:
                if self.habit == "refuse":
                    text = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
                    client.sendall(b"E" + struct.pack("!I", len(text) + 4) + text)
                    return
                del given[b"options"]
            body = b"".join(key + b"\0" + value + b"\0" for key, value in given.items() if key) + b"\0"
            with socket.create_connection(self.target) as server:
                server.sendall(struct.pack("!I", len(body) + 8) + packet[4:8] + body)
                back = threading.Thread(target=self._copy, args=[server, client], daemon=True)
                back.start()
                self._copy(client, server)
                back.join()

    @staticmethod
    def _packet(client):
        head = client.recv(8, socket.MSG_WAITALL)
        return head + client.recv(struct.unpack("!I", head[:4])[0] - 8, socket.MSG_WAITALL)

    @staticmethod
    def _copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.mark.parametrize("habit", ["refuse", "drop"])
def test_behind_a_pooler_the_role_is_taken_on_by_a_statement(no_leaks, make_pool, database, habit):
    """By every session, those that a pool grows by too, and after a rotation; `configure` comes after it."""
    pooler = Pooler(database.server.host, database.server.port, habit)
    configured = []

    def configure(conn):
        configured.append(names(conn)[1])
        conn.commit()

    try:
        with make_pool(f"{database.conninfo()} port={pooler.port}", configure=configure) as pool:
            for _ in range(2):
                with pool.connection() as first, pool.connection() as second:
                    assert names(first)[1] == names(second)[1] == database.group
                    first.rollback()
                    assert names(first)[1] == database.group
                pool.rotate()
            assert set(configured) == {database.group}
    finally:
        pooler.close()


@pytest.mark.parametrize("habit", ["refuse", "drop"])
def test_behind_a_pooler_a_missing_grant_is_named_as_well(no_leaks, make_pool, database, habit):
    """PostgreSQL answers the statement in clear."""
    pooler = Pooler(database.server.host, database.server.port, habit)
    name = f"foreign_{database.name}"
    database.execute(f'CREATE ROLE "{name}"')
    try:
        with pytest.raises(ConfigurationError, match="GRANT"):
            make_pool(f"{database.conninfo()} port={pooler.port}", assume_role=name).open()
    finally:
        pooler.close()
        database.execute(f'DROP ROLE "{name}"')


# --- Revocation --------------------------------------------------------------------------------------------


def test_a_transaction_in_flight_survives_the_removal_of_its_user(no_leaks, make_pool, source, database):
    """And the pool has a successor within lookup_interval."""
    with make_pool(lookup_interval=0.3) as pool:
        with pool.connection() as conn:
            conn.execute("UPDATE items SET name = 'before' WHERE id = 1")
            source.take(pool.status().user)
            conn.execute("UPDATE items SET name = 'after' WHERE id = 1")
            until(lambda: pool.status().generation == 2, 2)
        assert database.execute("SELECT name FROM items WHERE id = 1") == [("after",)]
        with pool.connection() as conn:
            assert conn.execute("SELECT count(*) FROM items").fetchone() == (100,)


def test_revocations_fail_nothing(no_leaks, make_pool, source):
    """8 threads on a pool of 4, with connection()."""
    with make_pool(lookup_interval=0.2) as pool, Clients(pool, 8) as clients:
        for number in range(1, 4):
            done = clients.done
            until(lambda done=done: clients.done > done + 100)
            source.take(pool.status().user)
            until(lambda number=number: pool.status().generation > number)
    assert not clients.failed(), clients.failures()
