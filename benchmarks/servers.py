"""PostgreSQL and a development Vault, each in a process of its own: what they cost is not ours."""

from __future__ import annotations

import multiprocessing
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool

from vault_pool import DynamicRole, Token, Vault, VaultPool
from vault_pool.devserver import DevServer
from vault_pool.devserver.postgres import EmbeddedPostgres
from vault_pool.runtime.hot_swap import HotSwapPool

ROLE = "app"
_TABLES = """
CREATE ROLE readers;
CREATE TABLE items (id integer PRIMARY KEY, name text);
INSERT INTO items SELECT n, 'x' FROM generate_series(1, 1000) n;
GRANT SELECT ON items TO readers;
"""
#: What a request of the load does: it fails when its role has been dropped, which a bare SELECT 1 would not notice.
QUERY = "SELECT name FROM items WHERE id = 7"


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where the servers are, and pools of every kind that lead there."""

    conninfo: str
    admin: str = field(repr=False)
    address: str
    token: str = field(repr=False)

    def raw(self, **options: Any) -> ConnectionPool[Connection]:
        return ConnectionPool(self.admin, **{"open": True, **options})

    def hot_swap(self, **options: Any) -> HotSwapPool[Connection]:
        return HotSwapPool(self.admin, **{"open": True, **options})

    def vault_pool(self, **options: Any) -> VaultPool[Connection]:
        vault = Vault(self.address, auth=Token(self.token))
        return VaultPool(self.conninfo, source=DynamicRole(ROLE, vault=vault), **options)

    def roles(self) -> int:
        """Count the database roles that Vault has made and not dropped."""
        with psycopg.connect(self.admin) as conn:
            row = conn.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def running() -> Iterator[Servers]:
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres())
        with postgres.connect() as conn:
            conn.execute(_TABLES)
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        token = secrets.token_hex(16)
        process = spawn.Process(target=_serve, args=(theirs, token, postgres.url()), name="devserver", daemon=True)
        process.start()
        theirs.close()
        stack.callback(process.join)
        # The other end sees the end of the pipe, also when this process is killed.
        stack.callback(ours.close)
        place = make_conninfo("", host=postgres.host, port=postgres.port, dbname=postgres.dbname)
        yield Servers(conninfo=place, admin=postgres.conninfo(), address=ours.recv(), token=token)


def _serve(pipe: Pipe, token: str, database: str) -> None:
    with DevServer(token) as server:
        server.enable_database(database)
        server.add_role(ROLE, in_role="readers")
        pipe.send(server.address)
        with suppress(EOFError, KeyboardInterrupt):
            pipe.recv()
