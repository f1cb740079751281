"""
The PostgreSQL of the recordings: its roles, its sessions, and a log of what the server under test sent to it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from vault_pool.devserver.postgres import EmbeddedPostgres

_OURS = "contract"
_RECORDED_ON = 15
_PREFIX = "@@%a@@"
_ENTRY = re.compile(r"^@@(.*?)@@(\w+):  ", re.MULTILINE)
_STATEMENT = re.compile(r"(?:statement|execute [^:]*): (.*)", re.DOTALL)
_PASSWORDS = {"st": "first", "vault_admin": "adminpw", "plain_admin": "plainpw", "lapsed": "lapsedpw"}


@contextlib.contextmanager
def logging_postgres(version: int | None = None) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL that logs every statement."""
    with EmbeddedPostgres(version) as postgres:
        with postgres.connect(autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET log_statement = 'all'")
            admin.execute(sql.SQL("ALTER SYSTEM SET log_line_prefix = {}").format(sql.Literal(_PREFIX)))
            admin.execute("SELECT pg_reload_conf()")
        yield postgres


class World:
    """
    One scenario's database `app`, with the roles that the recordings' README describes. Not thread-safe.

    Sessions of our own say so in application_name; all others are the server's under test.
    """

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self.postgres = postgres
        # Of each user, the oldest first.
        self._passwords = {user: [password] for user, password in _PASSWORDS.items()}
        self._sessions: dict[str, psycopg.Connection] = {}
        self._read = 0
        self._clear()
        with postgres.connect(autocommit=True, application_name=_OURS) as admin:
            admin.execute("CREATE ROLE vault_admin SUPERUSER LOGIN PASSWORD 'adminpw'")
            admin.execute("CREATE ROLE plain_admin CREATEROLE LOGIN PASSWORD 'plainpw'")
            admin.execute("CREATE ROLE app_rw")
            admin.execute("CREATE ROLE st LOGIN PASSWORD 'first'")
            admin.execute("CREATE DATABASE app OWNER plain_admin")
            if postgres.version is not None and postgres.version >= 16:
                # Up to 15, CREATEROLE alone could grant any role.
                admin.execute("GRANT app_rw TO plain_admin WITH ADMIN OPTION")
        self._admin = self._connect_admin()
        for statement in (
            "SET ROLE plain_admin",
            "CREATE TABLE items (id int, name text)",
            "INSERT INTO items VALUES (1, 'x')",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON items TO app_rw",
            "RESET ROLE",
            "CREATE SCHEMA extra",
            "CREATE TABLE extra.things (i int)",
            # Up to 14 everybody could create objects here; one scenario's role owns one.
            "GRANT CREATE ON SCHEMA public TO PUBLIC",
        ):
            self._admin.execute(statement)
        self.mark()

    def close(self) -> None:
        """End our sessions."""
        self._hang_up()
        self._admin.close()

    def execute(self, who: str, statement: str) -> dict[str, Any]:
        """Run *statement* as the administrator, or in the session that *who* opened; return rows or the error."""
        text, _, parameters = statement.partition("   -- [")
        values = json.loads("[" + parameters) if parameters else None
        session = self._admin if who == "admin" else self._sessions.get(who) or list(self._sessions.values())[-1]
        try:
            cursor = session.execute(text.encode(), values)
            rows = [list(row) for row in cursor.fetchall()] if cursor.description else None
        except psycopg.Error as error:
            shown = error.diag.message_primary or str(error)
            return {"error": {"class": type(error).__name__, "sqlstate": error.sqlstate, "message": shown}}
        return {"rows": rows}

    def learn(self, user: str, password: str) -> None:
        """Remember the password that the server under test showed for *user*."""
        known = self._passwords.setdefault(user, [])
        if password not in known:
            known.append(password)

    def login(self, user: str, *, old_password: bool, transaction: bool) -> str:
        """Log in as *user* by its password, or the one before, and keep the session; return "" or the refusal."""
        password = (["x", "x", *self._passwords.get(user, [])])[-2 if old_password else -1]
        try:
            session = psycopg.connect(
                host=self.postgres.host,
                port=self.postgres.port,
                dbname="app",
                user=user,
                password=password,
                application_name=_OURS,
                autocommit=not transaction,
            )
        except psycopg.Error as error:
            return str(error)
        if user in self._sessions:
            self._sessions.pop(user).close()
        self._sessions[user] = session
        return ""

    def has_role(self, user: str) -> bool:
        """Tell whether the role *user* exists."""
        row = self._admin.execute("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", [user]).fetchone()
        assert row is not None
        return bool(row[0])

    def power(self, what: str) -> None:
        """Stop, start or restart PostgreSQL."""
        self._admin.close()
        self._hang_up()
        if what == "stop":
            self.postgres.halt()
        else:
            self.postgres.restart()
            self._admin = self._connect_admin()
        self._read = 0

    def end_sessions_of_server(self) -> None:
        """End the sessions of the server under test, so that its next operation has to log in."""
        self._admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND application_name <> %s AND datname = 'app'",
            [_OURS],
        )

    def mark(self) -> None:
        """Forget what was logged so far."""
        log = self.postgres.folder / "log"
        self._read = log.stat().st_size if log.exists() else 0

    def statements(self) -> tuple[set[str], list[str]]:
        """Return the names under which the server under test connected since the mark, and what it sent."""
        with (self.postgres.folder / "log").open("rb") as log:
            log.seek(self._read)
            text = log.read().decode(errors="replace")
        entries = list(_ENTRY.finditer(text))
        ends = [*(entry.start() for entry in entries), len(text)][1:]
        names, sent = set(), []
        for entry, end in zip(entries, ends, strict=True):
            found = _STATEMENT.match(text[entry.end() : end].rstrip("\n"))
            if entry[2] == "LOG" and entry[1] != _OURS and found is not None:
                names.add(entry[1])
                # Lines after the first are logged with a tab.
                sent.append(found[1].replace("\n\t", "\n"))
        return names, sent

    @property
    def messages_as_recorded(self) -> bool:
        """Whether PostgreSQL is of the version that was recorded: others word some errors differently."""
        return self.postgres.version == _RECORDED_ON

    def _connect_admin(self) -> psycopg.Connection:
        return self.postgres.connect(autocommit=True, dbname="app", application_name=_OURS)

    def _hang_up(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _clear(self) -> None:
        """Remove what an earlier scenario left."""
        with self.postgres.connect(autocommit=True, application_name=_OURS) as admin:
            admin.execute("DROP DATABASE IF EXISTS app WITH (FORCE)")
            found = admin.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> current_user")
            for (name,) in found.fetchall():
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
