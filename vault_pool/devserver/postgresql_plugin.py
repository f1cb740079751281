"""
The PostgreSQL database plugin: what is sent to the server, and in which order.

vault: ``plugins/database/postgresql/postgresql.go``.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from vault_pool.devserver.clock import Clock
from vault_pool.devserver.database_values import checked_details
from vault_pool.devserver.errors import BackendError, wrapped
from vault_pool.devserver.flavor import Flavor
from vault_pool.devserver.passwords import scram_verifier
from vault_pool.devserver.pgx import Session

_RENEW: Final = """ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}';"""
_ROTATE: Final = """ALTER ROLE "{{username}}" WITH PASSWORD '{{password}}';"""
_EXISTS: Final = "SELECT exists (SELECT rolname FROM pg_roles WHERE rolname=%s);"
_GRANTED_SCHEMAS: Final = "SELECT DISTINCT table_schema FROM information_schema.role_column_grants WHERE grantee=%s;"
_CONNECT_TIMEOUT: Final = 10
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"")


class PostgreSQL:
    """
    The plugin for one `config`: one session, kept open, and one operation at a time (vault: ``p.Lock()``).

    Thread-safe. Every error is a BackendError whose text holds no password.
    """

    def __init__(self, details: Mapping[str, Any], flavor: Flavor, clock: Clock) -> None:
        self._details = checked_details(details, flavor)
        self._flavor = flavor
        self._clock = clock
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._closed = False

    def verify(self) -> None:
        """
        Connect.
        """
        with self._lock:
            try:
                self._ready() if self._session else self._open()
                with self._reported():
                    assert self._session is not None
                    self._session.ping()
            except BackendError as error:
                raise BackendError(f"error verifying connection: {error}") from None

    def new_user(self, statements: Sequence[str], username: str, password: str, expiration: float) -> None:
        """
        Run the creation statements in one transaction.
        """
        if not any(split_statement(statement) for statement in statements):
            raise BackendError("empty creation statements")
        if self._details.get("password_authentication") == "scram-sha-256":
            password = scram_verifier(password)
        values = {
            "name": username,
            "username": username,
            "password": password,
            "expiration": show_expiration(expiration),
        }
        with self._lock:
            try:
                session = self._ready()
            except BackendError as error:
                raise BackendError(f"unable to start transaction: {error}") from None
            try:
                self._transaction(session, statements, values)
            except BackendError as error:
                raise BackendError(f"failed to execute query: {error}") from None

    def extend_user(self, statements: Sequence[str], username: str, expiration: float) -> None:
        """
        Run the renewal statements, by default one that moves VALID UNTIL.
        """
        values = {"name": username, "username": username, "expiration": show_expiration(expiration)}
        with self._lock:
            try:
                self._transaction(self._ready(), statements or [_RENEW], values)
            except BackendError as error:
                raise BackendError(wrapped(str(error))) from None

    def change_password(self, statements: Sequence[str], username: str, password: str) -> None:
        """
        Run the rotation statements, by default one that sets the password.
        """
        if self._details.get("password_authentication") == "scram-sha-256":
            password = scram_verifier(password)
        values = {"name": username, "username": username, "password": password}
        with self._lock:
            try:
                session = self._ready()
            except BackendError as error:
                raise BackendError(wrapped(f"unable to get connection: {error}")) from None
            try:
                with self._reported():
                    # vault: it asks, but goes on whatever the answer.
                    session.first(_EXISTS, username)
                self._transaction(session, statements or [_ROTATE], values)
            except BackendError as error:
                raise BackendError(wrapped(f"failed to execute query: {error}")) from None

    def delete_user(self, statements: Sequence[str], username: str) -> None:
        """
        Run the revocation statements in one transaction, or the default ones, which are in none.
        """
        with self._lock:
            if statements:
                self._transaction(self._ready(), statements, {"name": username, "username": username})
            else:
                self._default_delete(username)

    def close(self) -> None:
        """
        End the session, also under an operation that hangs.
        """
        self._closed = True
        session = self._session
        # Another thread may wait for the server.
        if session is not None and self._lock.locked():
            session.shut_down()
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None

    def _open(self) -> Session:
        if self._closed:
            raise BackendError("connection is closed")
        parameters = self._parameters()
        try:
            self._session = Session(parameters, self._flavor, self._clock)
        except psycopg.Error as error:
            raise BackendError(self._mask(self._connect_error(parameters, str(error)))) from None
        return self._session

    def _ready(self) -> Session:
        """
        Return a session that answers.

        vault: ``SQLConnectionProducer.Connection`` pings what it has; ``database/sql`` replaces, once, what died.
        """
        if self._session is None:
            return self._open()
        try:
            self._session.ping()
        except psycopg.Error:
            self._session.close()
            self._session = None
            session = self._open()
            with self._reported():
                session.ping()
        return self._session or self._open()

    def _transaction(self, session: Session, statements: Sequence[str], values: Mapping[str, str]) -> None:
        with self._reported(), session.transaction() as run:
            for statement in statements:
                for part in split_statement(statement):
                    run(fill(part, values))

    def _default_delete(self, username: str) -> None:
        session = self._ready()
        user = sql.Identifier(username).as_string()
        with self._reported():
            if not session.first(_EXISTS, username):
                return
            with session.prepared(_GRANTED_SCHEMAS, username) as rows:
                database = str(session.first("SELECT current_database();"))
                schemas = [str(row[0]) for row in rows]
                # All of them run, whichever fail.
                failures = [self._attempt(session, one) for one in revocations(schemas, database, user, self._flavor)]
                if any(failures):
                    raise BackendError(f"could not perform all revocation statements: {next(filter(None, failures))}")
                with session.prepared(f"DROP ROLE IF EXISTS {user};"):
                    pass

    def _attempt(self, session: Session, statement: str) -> str:
        """
        Run *statement*; return the text of its failure.
        """
        try:
            session.run(statement)
        except psycopg.Error as error:
            return self._mask(_show(error))
        return ""

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise BackendError(self._mask(_show(error))) from None

    def _parameters(self) -> dict[str, Any]:
        url = str(self._details["connection_url"])
        escape = "://" in url and not self._details.get("disable_escaping")
        for name in ("username", "password"):
            value = str(self._details.get(name) or "")
            url = url.replace("{{" + name + "}}", quote(value, safe="") if escape else value)
        try:
            parameters: dict[str, Any] = dict(conninfo_to_dict(url))
        except psycopg.Error:
            raise BackendError("cannot parse `connection_url`") from None
        parameters.setdefault("connect_timeout", _CONNECT_TIMEOUT)
        options = f"{parameters.get('options') or ''} -c timezone=UTC".strip()
        return parameters | {"application_name": "vault", "options": options}

    def _connect_error(self, parameters: Mapping[str, Any], text: str) -> str:
        """
        Return the driver's words for a failed connect, as near as libpq's text allows.
        """
        host, port = parameters.get("host") or "", parameters.get("port") or "5432"
        user, database = parameters.get("user"), parameters.get("dbname")
        reason = text.strip().splitlines()[-1].split("FATAL:  ")[-1].strip()
        if "password authentication failed" in text:
            stage, said = "failed SASL auth", f"FATAL: {reason} (SQLSTATE 28P01)"
        elif "Connection refused" in text:
            stage, said = "dial error", f"dial tcp {host}:{port}: connect: connection refused"
        else:
            stage, said = "server error", reason
        if self._flavor.openbao:
            return f"failed to connect to `user={user} database={database}`: {host}:{port} ({host}): {stage}: {said}"
        return f"failed to connect to `host={host} user={user} database={database}`: {stage} ({said})"

    def _mask(self, text: str) -> str:
        password = str(self._details.get("password") or "")
        return text.replace(password, "[password]") if password else text


def fill(statement: str, values: Mapping[str, str]) -> str:
    """
    Return *statement* with *values* pasted in. vault: plain replacement, no quoting.
    """
    for name, value in values.items():
        statement = statement.replace("{{" + name + "}}", value)
    return statement


def split_statement(statement: str) -> list[str]:
    """
    Return the statements in one element of a list of statements.

    vault: one with the word END outside quotes (a DO block) stays whole; a JSON list counts as its parts.
    """
    if re.search(r"\bEND\b", _QUOTED.sub("", statement)):
        return [statement]
    parts = statement.split(";")
    if statement.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            parts = [str(part) for part in json.loads(statement)]
    return [part.strip() for part in parts if part.strip()]


def revocations(schemas: Sequence[str], database: str, user: str, flavor: Flavor) -> Iterator[str]:
    """
    Yield the default REVOKEs, in Vault's order; *user* is quoted.
    """
    for schema in schemas:
        quoted = sql.Identifier(schema).as_string()
        yield f"REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA {quoted if flavor.openbao else schema} FROM {user};"
        yield f"REVOKE USAGE ON SCHEMA {quoted} FROM {user};"
    yield f"REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA public FROM {user};"
    yield f"REVOKE ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA public FROM {user};"
    yield f"REVOKE USAGE ON SCHEMA public FROM {user};"
    yield f"REVOKE CONNECT ON DATABASE {sql.Identifier(database).as_string()} FROM {user};"


def show_expiration(instant: float) -> str:
    """
    Return *instant* as ``{{expiration}}``: whole seconds, with the server's offset.
    """
    moment = datetime.fromtimestamp(int(instant), tz=timezone.utc).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S%z")


def _show(error: psycopg.Error) -> str:
    diagnosis = error.diag
    if diagnosis.message_primary is None:
        return " ".join(str(error).split())
    return f"{diagnosis.severity_nonlocalized}: {diagnosis.message_primary} (SQLSTATE {diagnosis.sqlstate})"
