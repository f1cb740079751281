"""
Whose a session is, and as whom it acts.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vault_pool.runtime.hot_swap.assumed import AssumedRole


def not_proven(conn: Any, user: str, role: AssumedRole | None) -> str | None:
    """
    Return what is wrong with the session of *conn*, which should be that of *user* and act as *role*, or None.

    Where the role was ignored on the way, it is taken on by a statement from now on. Raises psycopg's errors, and
    `ConfigurationError` where the role may not be taken on.
    """
    session, current = _identity(conn)
    if role is not None and session == user and current != role.name and not role.by_statement:
        role.by_statement = True
        role.take(conn, user)
        session, current = _identity(conn)
    expected = user if role is None else role.name
    if (session, current) == (user, expected):
        return None
    if session == user:
        hint = f"; if that is meant, set assume_role={current!r}" if role is None else ""
        return f"the session acts as {current!r}, not as {expected!r}{hint}"
    return f"the session belongs to {session!r}, not to {user!r}"


def _identity(conn: Any) -> tuple[str | None, str | None]:
    """
    Return as whom the session of *conn* has logged in, and as whom it acts.
    """
    with psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
        row = cursor.execute("SELECT session_user, current_user", prepare=False).fetchone()
    conn.rollback()
    # psycopg leaves the text of a database in SQL_ASCII undecoded.
    session, current = (
        name.decode(errors="replace") if isinstance(name, bytes) else name for name in row or (None, None)
    )
    return session, current
