"""
No password and no token in anything that an application, its log or its error reporter gets to see.
"""

from __future__ import annotations

import logging
import threading
import time
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.fix_secrecy import reported, shown
from vault_pool import AppRole, DynamicRole, PoolClosed, Token, Vault, VaultPool
from vault_pool.errors import ConfigurationError, VaultPoolError
from vault_pool.runtime import tenant
from vault_pool.vault.secret import Secret

WRONG = "s.WrongWrongWrongWrongWrong"


class Everything(logging.Handler):
    """Keeps all that is logged, with the error that comes with a record, as error reporters do."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.words = []

    def emit(self, record):
        self.words += [self.format(record), shown(record.args), shown(record.__dict__)]
        if record.exc_info and record.exc_info[1] is not None:
            self.words.append(reported(record.exc_info[1]))


class Witness:
    """All the secrets that were issued during a test, and all that could be seen of it."""

    def __init__(self):
        self.secrets = set()
        self.errors = []
        self.events = []
        self.handler = Everything()

    def saw(self, error):
        self.errors.append(error)

    def check(self):
        text = "\n".join([*map(reported, self.errors), *self.handler.words, shown(self.events)])
        assert self.secrets
        assert text
        for secret in self.secrets:
            assert secret not in text, f"{text[max(0, text.index(secret) - 300) : text.index(secret)]}***"
        return text


@pytest.fixture
def witness(monkeypatch):
    """Everything that is logged anywhere, down to DEBUG, and every secret that passes through the library."""
    witness = Witness()
    wrap, read = Secret.__init__, DynamicRole.read

    def wrapping(self, value):
        if value:
            witness.secrets.add(value)
        wrap(self, value)

    def reading(self, now):
        issued = read(self, now)
        witness.secrets.add(issued.credential.password)
        return issued

    monkeypatch.setattr(Secret, "__init__", wrapping)
    monkeypatch.setattr(DynamicRole, "read", reading)
    hook = threading.excepthook
    monkeypatch.setattr(threading, "excepthook", lambda args: (witness.saw(args.exc_value), hook(args)))
    root = logging.getLogger()
    level = root.level
    root.addHandler(witness.handler)
    root.setLevel(logging.DEBUG)
    yield witness
    root.setLevel(level)
    root.removeHandler(witness.handler)


@pytest.fixture
def make_pool(vault_server, database, witness):
    """Return a function that makes a pool of *vault_server*'s role `app` in *database*, by an AppRole."""
    vault_server.database_role(database)
    login = vault_server.approle()
    witness.secrets.add(login.secret_id)

    def make(*, address=None, secret_id=login.secret_id, role="app", conninfo=None, patience=5.0, **options):
        auth = AppRole(login.role_id, secret_id, mount_point=login.mount_point)
        vault = Vault(address or vault_server.address, auth=auth, timeout=patience)
        source = DynamicRole(role, vault=vault, mount_point=vault_server.mount)
        options = {"min_size": 1, "max_size": 2, "on_event": witness.events.append, **options}
        return VaultPool(conninfo or database.conninfo(), source=source, **options)

    return make


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def walked(pool):
    """Everything that can be read of a pool without naming a private attribute; and of what it holds, its repr."""
    return shown({name: getattr(pool, name) for name in dir(pool) if not name.startswith("_")}) + shown(vars(pool))


def test_a_pool_that_works_shows_no_secret(make_pool, witness):
    """Its attributes, status, events, connections, statistics and log, over a life of rotations."""
    with make_pool() as pool:
        for _ in range(3):
            with pool.connection() as conn:
                conn.execute("SELECT 1")
                witness.events += [repr(conn), str(conn), repr(pool), walked(pool), repr(pool.status())]
                witness.events += [shown(vars(pool._current)), shown(vars(pool._current.pool)), shown(pool.kwargs)]
                witness.events += [shown(vars(pool._watcher)), shown(vars(pool._source)), shown(vars(pool._tenant))]
            pool.rotate()
        until(lambda: len(witness.events) > 24)

    assert len(witness.secrets) >= 6
    assert pool.status().last_error is None
    witness.check()


def failing_open(pool, witness, error=VaultPoolError, timeout=0.5):
    with pytest.raises(error) as caught:
        pool.open(timeout=timeout)
    witness.saw(caught.value)
    assert str(caught.value)


@pytest.mark.parametrize("trouble", ["wrong secret_id", "no such role", "policy", "unreachable", "deaf", "cut"])
def test_a_refused_start_shows_no_secret(make_pool, vault_server, witness, tcp_proxy, trouble):
    """Whatever Vault says no to, or does not answer at all."""
    address = urlsplit(vault_server.address)
    proxy = tcp_proxy(address.hostname, address.port)
    options = {"address": f"http://{proxy.host}:{proxy.port}"}
    if trouble == "wrong secret_id":
        witness.secrets.add(WRONG)
        options["secret_id"] = WRONG
    elif trouble == "no such role":
        options["role"] = "nope"
    elif trouble == "policy":
        vault_server.approle(vault_server.policy('path "nothing" { capabilities = ["read"] }'))
    elif trouble == "unreachable":
        proxy.refuse()
    elif trouble == "deaf":
        proxy.deaf()
        options["patience"] = 1.0
    pool = make_pool(**options)
    if trouble == "cut":
        pool.open()
        proxy.refuse()
        proxy.cut()
        with pytest.raises(VaultPoolError) as caught:
            pool.rotate()
        witness.saw(caught.value)
        proxy.pass_through()
        pool.close()
    else:
        failing_open(pool, witness, timeout=2.5)

    witness.check()


@pytest.mark.parametrize("trouble", ["nologin", "no database", "unreachable", "configure"])
def test_a_refused_login_to_postgresql_shows_no_secret(
    make_pool, vault_server, database, witness, tcp_proxy, monkeypatch, trouble
):
    """psycopg's error holds the connection, and its frames the password: neither is passed on."""
    monkeypatch.setattr(tenant, "OPENING_TIMEOUT", 0.5)
    options = {}
    if trouble == "nologin":
        creation = "CREATE ROLE \"{{name}}\" NOLOGIN PASSWORD '{{password}}'"
        vault_server.database_role(database, creation_statements=[creation])
    elif trouble == "no database":
        options["conninfo"] = database.conninfo(dbname="nonsense")
    elif trouble == "unreachable":
        proxy = tcp_proxy(database.server.host, database.server.port)
        proxy.refuse()
        options["conninfo"] = database.conninfo(port=proxy.port)
    else:
        options["configure"] = lambda conn: conn.execute("SELECT nonsense")
    error = ConfigurationError if trouble == "configure" else psycopg.OperationalError
    failing_open(make_pool(**options), witness, error, timeout=2.0)

    witness.check()


def test_a_checkout_that_fails_shows_no_secret(make_pool, database, witness):
    """The timeout, and its cause: the login that PostgreSQL refuses since the role is gone."""
    with make_pool(max_size=3) as pool:
        database.superuser_execute(f'ALTER ROLE "{pool.status().user}" NOLOGIN')
        with pool.connection(), pytest.raises(psycopg.OperationalError) as caught, pool.connection(timeout=0.5):
            pass
        witness.saw(caught.value)
        assert caught.value.__cause__ is not None
        with pytest.raises(psycopg.Error) as caught, pool.connection() as conn:
            conn.execute("SELECT nonsense")
        witness.saw(caught.value)
    with pytest.raises(PoolClosed) as caught:
        pool.getconn()
    witness.saw(caught.value)

    witness.check()


def test_a_token_of_the_application_is_shown_nowhere(vault_server, database, witness):
    """Also when Vault refuses it."""
    vault_server.database_role(database)
    witness.secrets.add(WRONG)
    vault = Vault(vault_server.address, auth=Token(WRONG), timeout=1.0)
    pool = VaultPool(database.conninfo(), source=DynamicRole("app", vault=vault, mount_point=vault_server.mount))
    failing_open(pool, witness)
    witness.events += [repr(vault), shown(vars(vault)), walked(pool)]

    witness.check()


def test_an_error_of_the_application_shows_no_secret(make_pool, witness):
    """What it raises in on_event or in its own code while it has a connection; the library's frames are in there."""

    def listener(event):
        raise RuntimeError("the listener failed")

    with make_pool(on_event=listener) as pool:
        with pytest.raises(ZeroDivisionError) as caught, pool.connection():
            raise ZeroDivisionError
        witness.saw(caught.value)
        with pytest.raises(psycopg.errors.DivisionByZero) as caught:
            pool.connection().__enter__().execute("SELECT 1/0")
        pool.close(timeout=0.1)

    assert "the listener failed" in witness.check()
