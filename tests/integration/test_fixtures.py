"""
The fixtures themselves: what other tests stand on.
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time

import psycopg
import pytest

TIMEOUT = 2


def ask(port, word=b"hello"):
    """Send *word* over a new connection and return the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        connection.sendall(word)
        return connection.recv(100)


@pytest.fixture
def echo():
    """A server that sends back what it gets; its port."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            while data := self.request.recv(100):
                self.request.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        block_on_close = False

        def handle_error(self, request, client_address):
            """A connection that is cut is what these tests are about."""

    with Server(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_login_reads_and_writes_items_and_is_listed(database):
    """A login made as Vault makes it may use the table; its session and role are listed until they end."""
    login = database.create_login()
    assert database.roles() == [login.user]
    with database.connect(login) as connection:
        connection.execute("INSERT INTO items (name) VALUES ('second')")
        assert [session.user for session in database.sessions()] == [login.user]
    assert database.execute("SELECT count(*) FROM items") == [(2,)]


def test_drop_role_leaves_the_session_without_rights(database):
    """The default revocation drops the role under an open session, which is listed without a user from then on."""
    login = database.create_login()
    with database.connect(login, autocommit=True) as connection:
        database.drop_role(login.user)
        assert database.roles() == []
        assert [session.user for session in database.sessions()] == [None]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM items")
    database.drop_role(login.user)


def test_terminate_ends_sessions(database):
    """A terminated session fails at its next statement."""
    with database.connect(database.create_login(), autocommit=True) as connection:
        assert database.terminate() == 1
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_vault_makes_a_login_and_revokes_it(vault_server, database):
    """A lease is one role in the database, and revoking it drops the role."""
    vault_server.database_role(database)
    login, answer = vault_server.creds()
    database.connect(login).close()
    assert vault_server.leases() == [answer["lease_id"]]
    assert database.roles() == [login.user]
    vault_server.revoke(answer["lease_id"])
    assert vault_server.leases() == []
    assert database.roles() == []


def test_vault_knows_the_approle_that_was_made(vault_server, database):
    """The AppRole logs in, and its policy suffices to read credentials."""
    vault_server.database_role(database)
    role = vault_server.approle(token_ttl="1m")
    body = {"role_id": role.role_id, "secret_id": role.secret_id}
    status, answer = vault_server.api("POST", f"auth/{role.mount_point}/login", body, token="")
    assert status == 200
    token = answer["auth"]["client_token"]
    vault_server.creds(token=token)
    vault_server.creds(token=vault_server.token(ttl="1m"))
    assert vault_server.api("GET", "sys/policies/acl", token=token)[0] == 403
    vault_server.revoke_all()
    assert database.roles() == []


def test_the_proxy_passes_through_and_leaves_nothing(no_leaks, echo, tcp_proxy):
    """What goes in comes out, and closing ends thread and descriptors."""
    proxy = tcp_proxy("127.0.0.1", echo)
    assert ask(proxy.port) == b"hello"
    assert proxy.accepted == 1
    proxy.close()
    proxy.close()


def test_the_proxy_delays(no_leaks, echo, tcp_proxy):
    """Each direction takes the delay."""
    proxy = tcp_proxy("127.0.0.1", echo, delay_ms=100)
    start = time.monotonic()
    assert ask(proxy.port) == b"hello"
    assert time.monotonic() - start >= 0.2


def test_a_deaf_proxy_answers_later(no_leaks, echo, tcp_proxy):
    """Deaf, it accepts and says nothing, on old connections too; afterwards nothing is lost."""
    proxy = tcp_proxy("127.0.0.1", echo)
    with socket.create_connection((proxy.host, proxy.port), timeout=0.2) as connection:
        connection.sendall(b"one")
        assert connection.recv(100) == b"one"
        proxy.deaf()
        connection.sendall(b"two")
        with socket.create_connection((proxy.host, proxy.port), timeout=0.2) as late:
            late.sendall(b"late")
            for deaf in (connection, late):
                with pytest.raises(TimeoutError):
                    deaf.recv(100)
        proxy.pass_through()
        connection.settimeout(TIMEOUT)
        assert connection.recv(100) == b"two"


def test_a_refusing_proxy_keeps_its_port_and_its_connections(no_leaks, echo, tcp_proxy):
    """New connections are refused, the open one goes on, and later the same port answers again."""
    proxy = tcp_proxy("127.0.0.1", echo)
    with socket.create_connection((proxy.host, proxy.port), timeout=TIMEOUT) as connection:
        connection.sendall(b"one")
        assert connection.recv(100) == b"one"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            ask(proxy.port)
        connection.sendall(b"two")
        assert connection.recv(100) == b"two"
    proxy.pass_through()
    assert ask(proxy.port) == b"hello"


@pytest.mark.parametrize("deaf", [False, True])
def test_cut_resets_every_connection(no_leaks, echo, tcp_proxy, deaf):
    """Connections are reset at once, also those that wait for an answer; new ones are served."""
    proxy = tcp_proxy("127.0.0.1", echo)
    with socket.create_connection((proxy.host, proxy.port), timeout=TIMEOUT) as connection:
        connection.sendall(b"one")
        assert connection.recv(100) == b"one"
        if deaf:
            proxy.deaf()
            connection.sendall(b"two")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    assert proxy.open_connections == 0
    proxy.pass_through()
    assert ask(proxy.port) == b"hello"


def test_postgres_is_reached_through_the_proxy(no_leaks, database, tcp_proxy):
    """A session through the proxy works, and fails when it is cut."""
    proxy = tcp_proxy(database.server.host, database.server.port)
    with database.connect(database.create_login(), port=proxy.port, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (1,)
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
