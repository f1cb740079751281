"""
The database backend ``vault_pool.django``: Django's own for PostgreSQL, on a pool whose credential rotates.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from contextlib import nullcontext, suppress
from typing import Any

from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper as Stock

from vault_pool import PoolClosed
from vault_pool.django.client import DatabaseClient
from vault_pool.django.creation import DatabaseCreation
from vault_pool.django.settings import DjangoPool, new_pool

#: For a connection to no particular database, seconds: Django goes on to another one where this fails.
_NO_DB_TIMEOUT = 5.0


class DatabaseWrapper(Stock):
    """
    A connection of one thread to one database, as Django uses it: borrowed from the pool of that database.

    There is always a pool. ``OPTIONS["pool"]`` may give its sizes, and ``CONN_MAX_AGE`` how long a thread keeps what it
    has borrowed: beyond the end of a request it is given back as soon as its credential was replaced.
    """

    client_class = DatabaseClient
    creation_class = DatabaseCreation
    # Django's own, by alias, belong to another class.
    _connection_pools: dict[str, Any] = {}  # noqa: RUF012 - Django's type

    def __init__(self, settings_dict: dict[str, Any], alias: str = "default") -> None:
        super().__init__(settings_dict, alias)
        self._no_db_pool: DjangoPool | None = None
        self._is_connecting = False

    @property
    def pool(self) -> DjangoPool:
        """
        The pool of this database, one for all threads; made at the first use, which opens nothing.
        """
        if self.alias == NO_DB_ALIAS:
            if self._no_db_pool is None:
                self._no_db_pool = self._new_pool(
                    name=NO_DB_ALIAS, min_size=0, max_size=1, timeout=_NO_DB_TIMEOUT, overlap=1
                )
            return self._no_db_pool
        pool = _pools.get(self._place)
        # Two threads may make one each; the first one counts, and the other was never opened.
        return _pools.setdefault(self._place, self._new_pool()) if pool is None else pool

    @property
    def _place(self) -> tuple[str, str]:
        # Test databases have another name under the same alias.
        return self.alias, self.settings_dict["NAME"]

    def _new_pool(self, **arguments: Any) -> DjangoPool:
        template = type(self)({**self.settings_dict, "OPTIONS": {**self.settings_dict["OPTIONS"]}}, self.alias)
        template._is_connecting = True
        parameters = {**template.get_connection_params(), "autocommit": True}
        return new_pool(self.alias, self.settings_dict, kwargs=parameters, template=template, **arguments)

    def connect(self) -> None:
        """
        Borrow a connection.
        """
        self._is_connecting = True
        # Before: what has been borrowed stays, if a receiver of the signal fails.
        _watch_thread(self)
        try:
            super().connect()
        finally:
            self._is_connecting = False

    def get_connection_params(self) -> dict[str, Any]:
        """
        Return psycopg's arguments. With the user and the password of now, if anybody but this backend asks.
        """
        parameters: dict[str, Any] = super().get_connection_params()
        if not self._is_connecting:
            held = self.connection
            # The pool may have no second one for this thread.
            if held is None or held.closed or held._pool.closed:
                self.pool.open()
                held = None
            with self.pool.connection() if held is None else nullcontext(held) as conn:
                parameters.update(user=conn.info.user, password=conn.info.password)
        return parameters

    def _configure_role(self, _connection: Any) -> bool:
        # The pool has assumed it.
        return False

    def close(self) -> None:
        """
        Give the connection back; close the pool of this wrapper alone, also where it could not connect.
        """
        try:
            super().close()
        finally:
            pool, self._no_db_pool = self._no_db_pool, None
            if pool is not None:
                pool.close()

    def close_if_unusable_or_obsolete(self) -> None:
        """
        At the begin and the end of requests: give a connection back that is kept longer, once its credential is old.
        """
        if self.connection is not None and not self.in_atomic_block and self.connection._pool.closed:
            self.close()
        super().close_if_unusable_or_obsolete()

    def close_if_health_check_failed(self) -> None:
        """
        Look at a connection that is kept from request to request; the pool looks at those that it lends.
        """
        if self.settings_dict["CONN_MAX_AGE"] != 0:
            BaseDatabaseWrapper.close_if_health_check_failed(self)

    def ensure_timezone(self) -> bool:
        """
        Have sessions in the time zone that the settings name now.
        """
        pool = _pools.get(self._place)
        if pool is not None:
            pool.template.settings_dict["TIME_ZONE"] = self.settings_dict["TIME_ZONE"]
            for name in ("timezone", "timezone_name"):
                pool.template.__dict__.pop(name, None)
            self.close_pool()
        return self.connection is not None and self._configure_timezone(self.connection)

    def close_pool(self) -> None:
        """
        Replace the sessions of the pool by new ones, in the background. The lease is not touched.

        Celery asks for this before and after each task.
        """
        pool = _pools.get(self._place)
        if pool is not None and not pool.closed:
            with suppress(PoolClosed):
                pool.drain()

    def end_pool(self) -> None:
        """
        Close the pool and all that it has, the lease included unless others use it; the next connection makes another.

        So do those of other aliases for a database of this name: in tests, a replica is a mirror of its primary.
        """
        for place in list(_pools):
            pool = _pools.pop(place, None) if place[1] == self.settings_dict["NAME"] else None
            if pool is not None:
                pool.close()


_pools: dict[tuple[str, str], DjangoPool] = {}


@atexit.register
def _close_all() -> None:
    """
    Close all pools: nobody tells Django that a process ends, and this thread may have a connection still.
    """
    if hasattr(_here, "thread"):
        _here.thread.close()
    for pool in list(_pools.values()):
        pool.close()


# --- Threads that end ----------------------------------------------------------------------------------------


class _Thread:
    """
    Dies with its thread, and gives back what that did not.
    """

    def __init__(self) -> None:
        self.wrappers: weakref.WeakSet[DatabaseWrapper] = weakref.WeakSet()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """
        Have the wrappers of this thread give back what they have.
        """
        for wrapper in list(self.wrappers):
            with suppress(Exception):
                wrapper.close()


_here = threading.local()


def _watch_thread(wrapper: DatabaseWrapper) -> None:
    if not hasattr(_here, "thread"):
        _here.thread = _Thread()
    _here.thread.wrappers.add(wrapper)
