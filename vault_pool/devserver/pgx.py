"""
How the PostgreSQL plugin's driver talks to the server: pings, transactions, prepared statements.

Go's ``database/sql`` keeps connections and takes one out for each operation; pgx is its driver. What PostgreSQL logs of
it is part of what can be observed. Source: jackc/pgx ``stdlib/sql.go``, v5.9.1 (OpenBao) and v4.18.1 (Vault).
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from vault_pool.devserver.clock import Clock
from vault_pool.devserver.flavor import Flavor

_Rows: TypeAlias = list[tuple[Any, ...]]
# pgx 5: ``ResetSession`` pings a connection that was not taken out for longer.
_IDLE: Final = 1.0


class Session:
    """
    One connection, open from construction until `close()`. All methods raise what psycopg raises.

    Not thread-safe, except for `shut_down()`.
    """

    def __init__(self, parameters: Mapping[str, Any], flavor: Flavor, clock: Clock) -> None:
        self._flavor = flavor
        self._clock = clock
        self._connection = psycopg.connect(make_conninfo("", **parameters), autocommit=True, prepare_threshold=None)
        self._fresh = True
        self._reset = -math.inf
        self._prepared = 0

    def close(self) -> None:
        """
        End it.
        """
        self._connection.close()

    def shut_down(self) -> None:
        """
        Make an operation that waits for the server fail: libpq gives up when its socket is shut down.
        """
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.fileno())) as it:
            it.shutdown(socket.SHUT_RDWR)

    def ping(self) -> None:
        """
        Make sure that the server answers.
        """
        self._take_out()
        self._run(self._flavor.ping)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Callable[[str], object]]:
        """
        Give the function that runs a statement inside a transaction.
        """
        self._take_out()
        self._run("begin")
        try:
            yield self._run
            self._run("commit")
        except psycopg.Error:
            with contextlib.suppress(psycopg.Error):
                self._run("rollback")
            raise

    def run(self, statement: str) -> None:
        """
        Run *statement* outside any transaction.
        """
        self._take_out()
        self._run(statement)

    def first(self, statement: str, *values: str) -> Any:
        """
        Return the first value of the first row of *statement*, whose parameters are ``%s``; None without a row.
        """
        self._take_out()
        row = self._connection.execute(statement.encode(), values or None).fetchone()
        return None if row is None else row[0]

    @contextlib.contextmanager
    def prepared(self, statement: str, *values: str) -> Iterator[_Rows]:
        """
        Give the rows of *statement*, whose parameters are ``%s``; it stays prepared until the end of the block.

        pgx 4 says so to the server in SQL (``deallocate``), pgx 5 by the protocol, which no log shows.
        """
        self._take_out()
        if self._flavor.openbao:
            cursor = self._connection.execute(statement.encode(), values or None)
            yield cursor.fetchall() if cursor.description else []
            return
        name = f"pgx_{self._prepared}"
        self._prepared += 1
        numbered = statement.replace("%s", "$1")
        _checked(self._connection.pgconn.prepare(name.encode(), numbered.encode()))
        try:
            result = _checked(
                self._connection.pgconn.exec_prepared(name.encode(), [value.encode() for value in values])
            )
            yield [
                tuple((result.get_value(row, column) or b"").decode() for column in range(result.nfields))
                for row in range(result.ntuples)
            ]
        finally:
            with contextlib.suppress(psycopg.Error):
                self._run(f'deallocate "{name}"')

    def _take_out(self) -> None:
        fresh, self._fresh = self._fresh, False
        now = self._clock.now()
        if fresh or not self._flavor.openbao:
            return
        if now - self._reset > _IDLE:
            self._run(self._flavor.ping)
        self._reset = now

    def _run(self, statement: str) -> object:
        return self._connection.execute(statement.encode())


def _checked(result: psycopg.pq.abc.PGresult) -> psycopg.pq.abc.PGresult:
    if result.status not in {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}:
        raise error_from_result(result)
    return result
