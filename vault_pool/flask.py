"""
Flask: `FlaskVaultPool`, an extension with a pool for each application.
"""

from __future__ import annotations

import atexit
import json
import threading
import weakref
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import click
from flask import Flask, Response, current_app, g, request_finished
from flask.cli import AppGroup, with_appcontext
from psycopg import Connection, Error, Rollback
from werkzeug.wsgi import ClosingIterator

from vault_pool import ConfigurationError, VaultPool, VaultPoolError

__all__ = ["FlaskVaultPool"]

_KEY = "vault_pool"
_DEFAULT = "default"


class FlaskVaultPool:
    """
    A `VaultPool` for each application, by its settings ``VAULT_POOL_…``.

    Another one beside it has a *name*, and its settings begin with that: ``FlaskVaultPool(app, name="replica")`` reads
    ``REPLICA_VAULT_POOL_…``. An application without any such setting takes them from the environment. *arguments* are
    further ones of `VaultPool`, and go before settings.

    `init_app` sends nothing: the pool opens when it is first used, in the process that uses it, and closes with that
    process. Raises `ConfigurationError`, which names the setting. Thread-safe once applications are initialised.
    """

    def __init__(self, app: Flask | None = None, *, name: str = _DEFAULT, **arguments: Any) -> None:
        self._name = name
        self._arguments = arguments
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """
        Give *app* a pool; no network.
        """
        pools: dict[str, VaultPool[Any]] = app.extensions.setdefault(_KEY, {})
        if self._name in pools:
            raise RuntimeError(
                f"this application has a FlaskVaultPool named {self._name!r}: call init_app once, or give another name"
            )
        prefix = "VAULT_POOL_" if self._name == _DEFAULT else f"{self._name.upper()}_VAULT_POOL_"
        if any(key.startswith(prefix) for key in app.config):
            pool: VaultPool[Any] = VaultPool.from_config(app.config, prefix, **self._arguments)
        else:
            pool = VaultPool.from_env(prefix, **self._arguments)
        pools[self._name] = pool
        _pools.add(pool)
        # An application that is dropped, in a test suite for example; closing waits, so a thread does it.
        weakref.finalize(app, lambda: threading.Thread(target=pool.close).start()).atexit = False
        # Not after_request: another function may follow there, and replace the response, or fail.
        request_finished.connect(self._keep_while_streaming, app)
        app.teardown_appcontext(self._release)
        if _commands.name not in app.cli.commands:
            app.cli.add_command(_commands)

    @property
    def pool(self) -> VaultPool[Any]:
        """
        The pool of the current application, open: its credential is fetched meanwhile, and checkouts wait for it.
        """
        pool = _pool_of_current(self._name)
        if pool.closed:
            pool.open(wait=False)
        return pool

    def connection(self, timeout: float | None = None) -> AbstractContextManager[Connection[Any]]:
        """
        Return a context manager around a connection: a transaction, committed at its end.
        """
        return self.pool.connection(timeout)

    def getconn(self, timeout: float | None = None) -> Connection[Any]:
        """
        Obtain a connection, to be given to `putconn`.
        """
        conn: Connection[Any] = self.pool.getconn(timeout)
        return conn

    def putconn(self, conn: Connection[Any]) -> None:
        """
        Return a connection to the pool that lent it; the context in which that was may be over.
        """
        home = getattr(conn, "_pool", None) or self.pool
        home.putconn(conn)

    @property
    def conn(self) -> Connection[Any]:
        """
        The connection of this request, or of the application's context: obtained at the first use, returned at the end.

        Whoever writes commits, by ``with vault.conn.transaction():`` for example: what is open at the end is rolled
        back. While a response is streamed it stays the same, until the last of it was sent.
        """
        loans = _loans()
        checkout, conn, lent = loans.get(self._name, (None, None, None))
        # With close_returns, the view may have given it back; by now it may be somebody else's.
        if checkout is None or getattr(conn, "_loan", None) is not lent:
            checkout = self.pool.connection()
            conn = checkout.__enter__()
            loans[self._name] = checkout, conn, conn._loan
        found: Connection[Any] = conn
        return found

    def _keep_while_streaming(self, _app: Flask, response: Response, **_kwargs: Any) -> None:
        # Contexts end before a streamed body is made, unless stream_with_context keeps them, and then at both times.
        # Error pages look streamed too: they were run as an application, which has ended. So do files, whose end the
        # response never hears of, and which need no connection.
        loans = _loans()
        loans.pop(_STREAMED, None)
        ended = response.direct_passthrough or isinstance(response.response, ClosingIterator)
        if response.is_streamed and not ended:
            loans[_STREAMED] = True
            response.call_on_close(lambda: self._end_stream(loans))

    def _end_stream(self, loans: dict[str, Any]) -> None:
        # The context may live on, with further requests in it: tests have one around all of theirs.
        loans.pop(_STREAMED, None)
        self._give_back(loans)

    def _release(self, _error: BaseException | None) -> None:
        loans = _loans()
        if _STREAMED not in loans:
            self._give_back(loans)

    def _give_back(self, loans: dict[str, Any]) -> None:
        # Popping is one atomic step: both ends may come, in any order.
        loan = loans.pop(self._name, None)
        if loan is not None:
            # Rolled back here and not by the pool, which would warn of it.
            loan[0].__exit__(Rollback, None, None)


_STREAMED = "(streamed)"


def _loans() -> dict[str, Any]:
    loans: dict[str, Any] = g.setdefault("_vault_pool", {})
    return loans


def _pool_of_current(name: str) -> VaultPool[Any]:
    pools: dict[str, VaultPool[Any]] = current_app.extensions.get(_KEY, {})
    if name not in pools:
        known = f"it has: {', '.join(pools)}" if pools else "call init_app(app)"
        raise ConfigurationError(f"this application has no FlaskVaultPool named {name!r}; {known}")
    return pools[name]


_pools: weakref.WeakSet[VaultPool[Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """
    Close the pools of all applications: Flask tells nobody that an application ends.
    """
    for pool in list(_pools):
        pool.close()


# --- Commands ------------------------------------------------------------------------------------------------

_commands = AppGroup("vault-pool", short_help="Look at the pool of rotating credentials, and try it.")
_named = click.option("--name", default=_DEFAULT, show_default=True, help="Which FlaskVaultPool.")


class _Opened:
    """
    A pool that is open for a command; troubles are told in a sentence.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> VaultPool[Any]:
        try:
            self._pool = _pool_of_current(self._name)
            self._pool.open()
        except (VaultPoolError, Error) as error:
            raise click.ClickException(str(error)) from None
        return self._pool

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        self._pool.close()
        if isinstance(error, (VaultPoolError, Error)):
            raise click.ClickException(str(error)) from None


@_commands.command("status")
@_named
@with_appcontext
def _status(name: str) -> None:
    """
    Open the pool in this process and print what is known of it, as JSON. Servers' own pools are not asked.
    """
    with _Opened(name) as pool:
        click.echo(json.dumps(asdict(pool.status()), indent=2))


@_commands.command("check")
@_named
@with_appcontext
def _check(name: str) -> None:
    """
    Get a credential and log in with it; exit with 1, and say why, where that fails.
    """
    with _Opened(name) as pool, pool.connection() as conn:
        user = conn.execute("SELECT current_user").fetchone()
        status = pool.status()
        until = "" if status.expires_in is None else f", for {status.expires_in:.0f} s"
        click.echo(f"{status.source}: {user[0] if user else '?'} is logged in{until}")


@_commands.command("rotate")
@_named
@with_appcontext
def _rotate(name: str) -> None:
    """
    Rotate the credential of this process once, to see that it works. Servers' own pools rotate by themselves.
    """
    with _Opened(name) as pool:
        before = pool.status().user
        pool.rotate()
        click.echo(f"{pool.status().source}: {pool.status().user} has succeeded {before}")
