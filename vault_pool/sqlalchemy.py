"""
SQLAlchemy engines whose connections come from a pool of ours.

The plugin does it by the URL alone, ``create_engine("postgresql+psycopg://db/app?plugin=vault_pool")``;
`engine_options` and `attach` do it with a pool that the application has made.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Protocol

import psycopg
import sqlalchemy
from psycopg.adapt import AdaptersMap
from psycopg.rows import tuple_row
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
# What SQLAlchemy, or a listener of its events, sets of a connection.
_MODES = ("autocommit", "isolation_level", "read_only", "deferrable", "row_factory", "prepare_threshold")
_modes = attrgetter(*_MODES)


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
    event.listen(engine, "detach", lending.detach)
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
        _sound(url, kwargs, lent=self._pool is not None and not isinstance(self._pool, str))
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


def _sound(url: URL, kwargs: Mapping[str, Any], *, lent: bool = False) -> None:
    """
    Raise `ConfigurationError` for what a pool of ours cannot follow; *lent* where that is made already.
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
    elif lent and kwargs.get("connect_args"):
        text = "connect_args is for connections that SQLAlchemy makes: remove it, and set kwargs of the VaultPool"
    del url, kwargs
    if text:
        raise ConfigurationError(text)


class _Visit:
    """
    What a connection has to be given back as: SQLAlchemy changes it for its own use, with each checkout.

    Its listeners for notices would grow without end, and its adapters, its isolation level and the like are not those
    of who borrows it next.
    """

    __slots__ = ("adapters", "modes", "notice_handlers", "notify_handlers", "pool", "stranded")

    def __init__(self, conn: Any, pool: Lender, stranded: weakref.finalize[..., Any]) -> None:
        self.pool = pool
        self.stranded = stranded
        self.modes = _modes(conn)
        self.adapters = conn._adapters
        self.notice_handlers = list(conn._notice_handlers)
        self.notify_handlers = list(conn._notify_handlers)

    def end(self, conn: Any) -> None:
        """
        Give *conn* back as it was.
        """
        self.stranded.detach()
        conn._adapters = self.adapters
        conn._notice_handlers[:] = self.notice_handlers
        conn._notify_handlers[:] = self.notify_handlers
        if not conn.closed and _modes(conn) != self.modes:
            _set_modes(conn, self.modes)
        self.pool.putconn(conn)


def _set_modes(conn: Any, modes: tuple[Any, ...]) -> None:
    """
    Have *conn* be as *modes* say; end it where that is not possible.
    """
    try:
        # SQLAlchemy was told to leave a transaction open: in it, they could not be changed.
        conn.rollback()
        for name, value in zip(_MODES, modes, strict=True):
            setattr(conn, name, value)
    except psycopg.Error:
        conn.pgconn.finish()


class _Lending:
    """
    What an engine asks for connections. Thread-safe.
    """

    def __init__(self, pool: Lender | str | None) -> None:
        self._pool = pool if not isinstance(pool, str) else None
        self._name = pool if isinstance(pool, str) else None
        # At most one, by the name of whom it is for: `setdefault` is atomic, and a lock would be inherited by forks.
        self._own: dict[str | None, VaultPool[Any]] = {}

    def lend(self, _dialect: Any, record: Any, _args: Any, parameters: dict[str, Any]) -> Any:
        """
        Return a connection, in the place of ``psycopg.connect`` (SQLAlchemy's event ``do_connect``), and as that makes
        them: the pool may lend them to others with rows that are dicts, and in autocommit.
        """
        pool = self._found(parameters)
        if isinstance(pool, VaultPool) and pool.closed:
            # Attempts go on in the background; the checkout waits for them.
            pool.open(wait=False)
        conn = pool.getconn()
        # Before SQLAlchemy 2.1.9, nobody gives back what it was lent where a listener of its event "connect" fails.
        stranded = weakref.finalize(record, self.discard, conn)
        stranded.atexit = False
        setattr(conn, _VISIT, _Visit(conn, pool, stranded))
        conn.row_factory = parameters.get("row_factory", tuple_row)
        if conn.autocommit != parameters.get("autocommit", False):
            conn.autocommit = not conn.autocommit
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

    def detach(self, conn: Any, _record: Any) -> None:
        """
        Leave *conn* to the application, which has taken it out of SQLAlchemy's hands (its event ``detach``).
        """
        visit = conn.__dict__.get(_VISIT)
        if visit is not None:
            visit.stranded.detach()

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
