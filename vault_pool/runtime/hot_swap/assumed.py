"""
A role that every session takes on, whatever user it logged in as.
"""

from __future__ import annotations

import os
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from vault_pool.errors import ConfigurationError, fold


class AssumedRole:
    """
    Have connections act as *name*: by their startup options, or, where something in between drops or refuses those,
    by a statement.

    By the options it costs no round trip, and ``RESET ROLE`` and ``DISCARD ALL`` come back to it (PostgreSQL
    documentation, "SET ROLE"; measured on 15 and 18). PostgreSQL 15.9, 16.5, 17.1 and their siblings ignore it there
    (release notes), as poolers may; `by_statement` is set once that was seen, and holds for all generations.

    Thread-safe: one flag, which is only ever set.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name or name.lower() == "none":
            raise ConfigurationError(f"assume_role must be the name of a role of the database, not {name!r}")
        self.name = name
        self.by_statement = False

    def given(self, conninfo: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """
        Return *kwargs* for connecting, with the role among the options that the application has set.
        """
        if self.by_statement:
            return kwargs
        options = kwargs.get("options") or conninfo_to_dict(conninfo).get("options") or os.environ.get("PGOPTIONS", "")
        escaped = self.name.replace("\\", "\\\\").replace(" ", "\\ ")
        return {**kwargs, "options": f"{options} -c role={escaped}".strip()}

    def take(self, conn: Any, user: str) -> None:
        """
        Have the session of *conn*, which has just been connected as *user*, act as the role.

        Raises `ConfigurationError` where PostgreSQL refuses that; the connection is closed then.
        """
        statement = sql.SQL("SET ROLE {}").format(sql.Identifier(self.name))
        try:
            with psycopg.Cursor(conn) as cursor:
                cursor.execute(statement, prepare=False)
            # The role would go with a rollback.
            conn.commit()
        except psycopg.Error as error:
            problem = self._why_not(user, error)
        else:
            return
        conn.close()
        raise ConfigurationError(problem)

    def _why_not(self, user: str, error: psycopg.Error) -> str:
        name = self.name
        if error.sqlstate == "42501":
            return (
                f'{user!r} may not act as {name!r}: add IN ROLE "{name}" to the creation_statements of the role in '
                f'Vault, or GRANT "{name}" TO "{{{{name}}}}" (PostgreSQL 16 and later: WITH SET TRUE)'
            )
        return f"assume_role={name!r} cannot be taken on: {fold(error)}"
