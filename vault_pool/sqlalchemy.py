"""
SQLAlchemy engines whose connections come from a pool of ours.

The plugin does it by the URL alone, ``create_engine("postgresql+psycopg://db/app?plugin=vault_pool")``;
`engine_options` and `attach` do it with a pool that the application has made.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from typing import Any, Protocol

import sqlalchemy
from psycopg.adapt import AdaptersMap
from sqlalchemy import Engine, NullPool, event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL, CreateEnginePlugin

from vault_pool import ConfigurationError, VaultPool

__all__ = ["VaultPoolPlugin", "attach", "engine_options"]

_PLUGIN = "vault_pool"
# What SQLAlchemy's own pool is told, and where ours is told the same.
_INSTEAD = {
    "pool_size": "min_size",
    "max_overflow": "max_size",
    "pool_timeout": "timeout",
    "pool_use_lifo": "nothing: ours lends what came back last",
}
_VISIT = "_vault_pool_visit"


class Lender(Protocol):
    """
    What lends connections: a `VaultPool`, a `HotSwapPool`, a Flask extension that has one.
    """

    def getconn(self) -> Any:
        """
        Lend a connection.
        """

    def putconn(self, conn: Any) -> None:
        """
        Take one back.
        """


def engine_options(pool: Lender) -> dict[str, Any]:
    """
    Return the arguments by which ``create_engine``, or ``SQLALCHEMY_ENGINE_OPTIONS``, borrows from *pool*.
    """
    return {"plugins": [_PLUGIN], "vault_pool": pool}


def attach(engine: Engine, pool: Lender | str | None = None) -> None:
    """
    Have *engine*, which was made with ``poolclass=NullPool``, borrow from *pool*.

    *pool* is a pool that lends, or the name of one: the `VaultPool` of that name in this process, else one that is
    made of the environment (``VAULT_POOL_…``), for the engine's database. Raises `ConfigurationError` for an engine
    that cannot do that.
    """
    _sound(engine.url, {"async": engine.dialect.is_async})
    if not isinstance(engine.pool, NullPool):
        raise ConfigurationError(
            "the engine has a pool of its own: make it by create_engine(url, **engine_options(pool)), "
            "or with poolclass=NullPool"
        )
    lending = _Lending(pool)
    engine.dialect.do_close = lending.give_back  # type: ignore[assignment, method-assign]
    engine.dialect.do_terminate = lending.discard  # type: ignore[assignment, method-assign]
    event.listen(engine, "do_connect", lending.lend)
    event.listen(engine, "engine_disposed", lending.dispose)


class VaultPoolPlugin(CreateEnginePlugin):
    """
    The plugin ``vault_pool``: ``?plugin=vault_pool`` in the URL, or ``create_engine(url, plugins=["vault_pool"])``.

    The pool is what ``vault_pool`` says, in the URL or as an argument: the name of a `VaultPool`, or as an argument the
    pool itself; see `attach`. Whichever ``poolclass`` was asked for, SQLAlchemy keeps no connections itself.
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        named = url.query.get("vault_pool")
        self._pool: Lender | str | None = kwargs.pop("vault_pool", None) or (named if isinstance(named, str) else None)
        _sound(url, kwargs)
        kwargs["poolclass"] = NullPool

    def update_url(self, url: URL) -> URL:
        """
        Return *url* without what is for the plugin.
        """
        return url.difference_update_query(["vault_pool"])

    def engine_created(self, engine: Engine) -> None:
        """
        Have the new engine borrow from the pool.
        """
        attach(engine, self._pool)


# The entry point does the same for who has not imported this module.
plugins.register(_PLUGIN, __name__, VaultPoolPlugin.__name__)


def _sound(url: URL, kwargs: Mapping[str, Any]) -> None:
    """
    Raise `ConfigurationError` for what a pool of ours cannot follow.
    """
    backend, _, driver = url.drivername.partition("+")
    plain = "psycopg2" if sqlalchemy.__version__ < "2.1" else "psycopg"
    held = [name for name in ("username", "password") if getattr(url, name)]
    held += [name for name in ("user", "password", "passfile") if name in url.query]
    shown = url.set(username=None, password=None).difference_update_query(["user", "password", "passfile"])
    given = [name for name in _INSTEAD if name in kwargs]
    made = [name for name in ("creator", "pool") if kwargs.get(name) is not None]
    text = ""
    if backend != "postgresql" or (driver or plain) != "psycopg" or kwargs.get("async"):
        text = f"the URL begins with {url.drivername}://: write postgresql+psycopg://, and no async engine"
    elif held:
        text = f"the URL holds {' and '.join(held)}, but the pool's source brings them: write {shown}"
    elif given:
        text = f"{given[0]} is for SQLAlchemy's own pool: remove it, and set {_INSTEAD[given[0]]} of the VaultPool"
    elif made:
        text = f"{made[0]} and the plugin vault_pool exclude each other: both say where connections come from"
    del url, kwargs
    if text:
        raise ConfigurationError(text)


class _Visit:
    """
    What a connection has to be given back as: SQLAlchemy changes it for its own use, with each checkout.

    Its listeners for notices would grow without end, and its adapters are not those of who borrows it next.
    """

    __slots__ = ("adapters", "notice_handlers", "notify_handlers", "pool")

    def __init__(self, conn: Any, pool: Lender) -> None:
        self.pool = pool
        self.adapters = conn._adapters
        self.notice_handlers = list(conn._notice_handlers)
        self.notify_handlers = list(conn._notify_handlers)

    def end(self, conn: Any) -> None:
        """
        Give *conn* back as it was.
        """
        conn._adapters = self.adapters
        conn._notice_handlers[:] = self.notice_handlers
        conn._notify_handlers[:] = self.notify_handlers
        self.pool.putconn(conn)


class _Lending:
    """
    What an engine asks for connections. Thread-safe.
    """

    def __init__(self, pool: Lender | str | None) -> None:
        self._pool = pool if not isinstance(pool, str) else None
        self._name = pool if isinstance(pool, str) else None
        # At most one, by the name of whom it is for: `setdefault` is atomic, and a lock would be inherited by forks.
        self._own: dict[str | None, VaultPool[Any]] = {}

    def lend(self, _dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> Any:
        """
        Return a connection, in the place of ``psycopg.connect`` (SQLAlchemy's event ``do_connect``).
        """
        pool = self._found(parameters)
        if isinstance(pool, VaultPool) and pool.closed:
            # Attempts go on in the background; the checkout waits for them.
            pool.open(wait=False)
        conn = pool.getconn()
        setattr(conn, _VISIT, _Visit(conn, pool))
        context = parameters.get("context")
        if context is not None:
            # The dialect's: psycopg's `connect` would have taken them from there.
            conn._adapters = AdaptersMap(context.adapters)
        return conn

    def give_back(self, conn: Any) -> None:
        """
        Return *conn* to the pool, in the place of closing it.
        """
        visit = conn.__dict__.pop(_VISIT, None)
        if visit is None:
            conn.close()
        else:
            visit.end(conn)

    def discard(self, conn: Any) -> None:
        """
        End the session of *conn*: SQLAlchemy has found it broken, or was told to `invalidate` it.
        """
        conn.pgconn.finish()
        self.give_back(conn)

    def dispose(self, _engine: Engine) -> None:
        """
        Close the pool if the engine made it; the next connection makes another.
        """
        own = self._own.pop(self._name, None)
        if own is not None:
            own.close()
            atexit.unregister(own.close)

    def _found(self, parameters: dict[str, Any]) -> Lender:
        if self._pool is not None:
            return self._pool
        own = self._own.get(self._name)
        found = VaultPool.find(self._name) if self._name and own is None else own
        if found is not None:
            return found
        made = self._made(parameters)
        own = self._own.setdefault(self._name, made)
        if own is made:
            # Before the pool's own, which would complain that nobody closed it.
            atexit.register(own.close)
        return own

    def _made(self, parameters: dict[str, Any]) -> VaultPool[Any]:
        own = {key: value for key, value in parameters.items() if key != "context"}
        try:
            return VaultPool.from_env(kwargs=own, **({"name": self._name} if self._name else {}))
        except ConfigurationError as error:
            text = str(error)
        wanted = f"no VaultPool is named {self._name!r}" if self._name else "the URL names no VaultPool (&vault_pool=…)"
        raise ConfigurationError(
            f"the engine has no pool: {wanted}, engine_options(pool) gave none, and the environment makes none: {text}"
        )
