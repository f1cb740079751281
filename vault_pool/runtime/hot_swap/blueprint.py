"""
What every generation of a holder is built from.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, cast

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT, ConninfoParam, KwargsParam

from vault_pool.core.lease import Credential
from vault_pool.errors import LoginFailed, fold
from vault_pool.runtime.hot_swap.assumed import AssumedRole
from vault_pool.runtime.hot_swap.budget import Budget
from vault_pool.runtime.hot_swap.generation import Generation, GenerationPool
from vault_pool.runtime.hot_swap.tracking import dismiss, tracked

_OWN_FIELDS = frozenset({"conninfo", "kwargs"})
_DEFAULTS = {name: known.default for name, known in inspect.signature(ConnectionPool).parameters.items()}
#: ``connect_timeout`` of connections with a credential of ours, in seconds, unless the application has set one:
#: psycopg's own is over two minutes.
CONNECT_TIMEOUT = 10


class Connector(Generic[CT]):
    """
    What a generation's pool takes for its connection class: ``connect`` is the gate of the budget.

    The credential is added here, so that it is in no pool's ``kwargs``.
    """

    def __init__(
        self, connection_class: type[CT], credential: Credential | None, role: AssumedRole | None = None
    ) -> None:
        self.connection_class = tracked(connection_class)
        self.credential = credential
        self.role = role
        self.generation: Generation[CT] | None = None

    def connect(self, conninfo: str = "", **kwargs: Any) -> CT:
        """
        Return a connection; raise `LoginFailed` where a credential of ours was refused.
        """
        assert self.generation is not None
        return self.generation.connect(lambda: self.make(conninfo, **kwargs))

    def make(self, conninfo: str, **kwargs: Any) -> CT:
        """
        Connect, outside of the budget.
        """
        return self._make(conninfo, kwargs, self.role)

    def _make(self, conninfo: str, kwargs: dict[str, Any], role: AssumedRole | None) -> CT:
        """
        Connect, and take on *role*.

        psycopg's error holds the connection object, and its frames the arguments, both with the password: ours is
        raised after that error is gone, with nothing but its text.
        """
        credential = self.credential
        connect: Callable[..., CT] = self.connection_class.connect
        if credential is None:
            return connect(conninfo, **kwargs)
        if "connect_timeout" not in kwargs and not _bounded(conninfo):
            kwargs["connect_timeout"] = CONNECT_TIMEOUT
        if role is not None:
            kwargs = role.given(conninfo, kwargs)
        try:
            conn = connect(conninfo, **{**kwargs, "user": credential.user, "password": credential.password})
        except Exception as error:  # noqa: BLE001 - a connection class of the application may raise anything
            problem = fold(f"{type(error).__name__}: {error}".replace(credential.password, "***"))
            # libpq has sent it, because it was asked for it: who ends the attempt after that is no network.
            refused = bool(getattr(getattr(error, "pgconn", None), "used_password", False))
        else:
            if role is not None and role.by_statement:
                role.take(conn, credential.user)
            return conn
        raise LoginFailed(
            f"PostgreSQL refused the login of {credential.user!r}, or could not be reached: {problem}", refused=refused
        )

    def make_first(self, conninfo: str, **kwargs: Any) -> CT:
        """
        Connect for the proof; find out why the role could not be taken on, and whether by a statement it can.

        PostgreSQL tells the reason to its own log only; a pooler refuses the option before it asks for the password.
        """
        try:
            return self.make(conninfo, **kwargs)
        except LoginFailed as error:
            role = self.role
            if role is None or role.by_statement or not (error.refused or "startup parameter" in str(error)):
                raise
        plain = AssumedRole(role.name)
        plain.by_statement = True
        conn = self._make(conninfo, kwargs, plain)
        role.by_statement = True
        return conn


@dataclass(frozen=True, kw_only=True)
class Blueprint(Generic[CT]):
    """
    What every generation of a holder is built from: psycopg_pool's arguments.
    """

    conninfo: ConninfoParam = ""
    connection_class: type[Any] = Connection
    kwargs: KwargsParam | None = None
    role: AssumedRole | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def setting(self, name: str) -> Any:
        """
        Return what a generation would have for its setting *name*.
        """
        if name in _OWN_FIELDS:
            return getattr(self, name)
        value = self.options.get(name, _DEFAULTS[name])
        return self.setting("min_size") if name == "max_size" and value is None else value

    def changed(self, name: str, value: Any) -> Blueprint[CT]:
        """
        Return this blueprint with another *value* for the setting *name*.
        """
        if name in _OWN_FIELDS:
            return replace(self, **{name: value})
        return replace(self, options={**self.options, name: value})

    def build(
        self,
        number: int,
        budget: Budget,
        *,
        credential: Credential | None = None,
        name: str | None = None,
        open: bool | None = False,  # noqa: A002 - psycopg_pool's name
    ) -> Generation[CT]:
        """
        Return a generation, whose pool is opened as *open* says to psycopg_pool: a successor is proven first.
        """
        connector = Connector(self.connection_class, credential, self.role)
        options = {**self.options, "name": name or self.options.get("name")}
        configure, check = map(self.options.get, ("configure", "check"))
        pool: GenerationPool[CT] = GenerationPool(
            self.conninfo, kwargs=self.kwargs, connection_class=cast("type[CT]", connector), open=False, **options
        )
        generation = Generation(pool, number, budget=budget)
        generation.credential = credential
        generation.role = self.role
        pool.generation = connector.generation = generation
        if configure is not None:
            pool._configure = lambda conn: _configure(generation, conn, configure)
        if check is not None:
            pool._check = lambda conn: _check(generation, conn, check)
        if open is not False:
            # Not by the constructor: the workers would connect before the lines above.
            pool._open_implicit = open is None
            pool.open()
        return generation

    def maker(self, credential: Credential) -> Callable[[], CT]:
        """
        Return a function that connects as *credential*, for the proof.
        """
        connector: Connector[CT] = Connector(self.connection_class, credential, self.role)

        def make() -> CT:
            conninfo = self.conninfo() if callable(self.conninfo) else self.conninfo
            kwargs = self.kwargs() if callable(self.kwargs) else self.kwargs
            return connector.make_first(conninfo, **(kwargs or {}))

        return make


def _bounded(conninfo: str) -> bool:
    return "connect_timeout" in conninfo_to_dict(conninfo) or "PGCONNECT_TIMEOUT" in os.environ


def _configure(generation: Generation[CT], conn: CT, configure: Callable[[CT], None]) -> None:
    """
    Run the application's *configure*, and keep why it failed: psycopg_pool logs it, and tries again and again.
    """
    error: Exception | None = None
    try:
        configure(conn)
    except Exception as raised:  # noqa: BLE001 - the application's
        error = raised
    status = conn.pgconn.transaction_status
    if error is None and status != TransactionStatus.IDLE:
        name = TransactionStatus(status).name
        error = psycopg.ProgrammingError(f"it left the connection in status {name}: it has to commit")
    if error is not None:
        generation.not_configured(error)
        dismiss(conn)
        raise error


def _check(generation: Generation[CT], conn: CT, check: Callable[[CT], None]) -> None:
    """
    Run the application's *check*. One that looks at a table finds a lost role before any statement does.
    """
    try:
        check(conn)
    except Exception:
        if getattr(conn, "_suspect", False):
            generation.look_at(conn, lending=True)
        if generation.revoked and generation.doubt is not None:
            # psycopg_pool would pause, for up to seconds, and try the next one: `vouch` refuses this one at once.
            return
        raise
