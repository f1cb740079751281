"""
All that the demo needs: a PostgreSQL, a Vault that knows it, and a pool as an application would set it up.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final

from psycopg import sql

from vault_pool import AppRole, DynamicRole, Vault, VaultPool
from vault_pool.cli.demo.app import SCHEMA
from vault_pool.devserver import DevServer
from vault_pool.devserver.postgres import EmbeddedPostgres
from vault_pool.events import Event

if TYPE_CHECKING:
    from typing_extensions import Self

#: The times of the leases, in seconds. They alone cause rotations: the first renewal, after about 4 s, meets MAX_TTL.
DEFAULT_TTL: Final = 6
MAX_TTL: Final = 8
MIN_SIZE: Final = 2
MAX_SIZE: Final = 8
OVERLAP: Final = 2

#: What the application may do: read credentials, and end them before their time. (Renewing them, and its own token, is
#: allowed to everybody by Vault's policy `default`.)
POLICY: Final = """
    path "database/creds/shop" { capabilities = ["read"] }
    path "sys/leases/revoke"   { capabilities = ["update"] }
"""

_SAMPLING: Final = 0.05
_SESSIONS: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = 'shop' AND backend_type = 'client backend' AND usename IS DISTINCT FROM 'vault'
"""


@contextmanager
def own_environment() -> Iterator[None]:
    """
    Hide the user's own Vault, PostgreSQL and proxies from the demo, whose servers are on loopback.
    """
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("PG", "VAULT_", "BAO_")) or name.lower().endswith("_proxy")
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


class Stage:
    """
    The servers, from `with` until its end. Vault's administrator in PostgreSQL is `vault`, the database `shop`.
    """

    def __init__(self) -> None:
        self._postgres = EmbeddedPostgres()
        self._vault = DevServer()

    def __enter__(self) -> Self:
        self._postgres.start()
        try:
            self._vault.start()
            self._prepare()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        try:
            self._vault.close()
        finally:
            self._postgres.stop()

    def _prepare(self) -> None:
        password = secrets.token_urlsafe(24)
        with self._postgres.connect(autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE ROLE vault LOGIN CREATEROLE PASSWORD {}").format(sql.Literal(password)))
            conn.execute("CREATE ROLE shop_rw")
            conn.execute("GRANT shop_rw TO vault WITH ADMIN OPTION")
            conn.execute("CREATE DATABASE shop OWNER vault")
        with self._postgres.connect(user="vault", password=password, dbname="shop") as conn:
            conn.execute(SCHEMA.encode())
        self._vault.enable_database(self._postgres.url("vault", password, "shop"))
        self._vault.add_role("shop", in_role="shop_rw", default_ttl=f"{DEFAULT_TTL}s", max_ttl=f"{MAX_TTL}s")
        self._vault.add_policy("shop", POLICY)

    def pool(self, on_event: Callable[[Event], None]) -> VaultPool:
        """
        Return a pool, not open yet, as an application would make it.
        """
        login = self._vault.add_approle("shop", ["shop"])
        vault = Vault(self._vault.address, auth=AppRole(login.role_id, login.secret_id))
        return VaultPool(
            f"host={self._postgres.host} port={self._postgres.port} dbname=shop",
            source=DynamicRole("shop", vault=vault),
            min_size=MIN_SIZE,
            max_size=MAX_SIZE,
            overlap=OVERLAP,
            on_event=on_event,
            name="shop",
        )

    def roles(self) -> int:
        """
        Count the roles that Vault made and nobody dropped.
        """
        with self._postgres.connect() as conn:
            found = conn.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").fetchone()
        assert found is not None
        return int(found[0])

    def leases(self) -> int:
        """
        Count the leases in Vault.
        """
        path = "sys/leases/lookup/database/creds/shop/"
        _, answer = self._vault.request("LIST", path, token=self._vault.root_token)
        return len(((answer or {}).get("data") or {}).get("keys", []))

    @contextmanager
    def peak_connections(self) -> Iterator[list[int]]:
        """
        Sample how many connections the application's users have; the largest number is the list's one element.
        """
        peak = [0]
        stop = threading.Event()

        def sample() -> None:
            with self._postgres.connect(autocommit=True) as conn:
                while not stop.wait(_SAMPLING):
                    found = conn.execute(_SESSIONS).fetchone()
                    assert found is not None
                    peak[0] = max(peak[0], found[0])

        thread = threading.Thread(target=sample, name="demo-sampler", daemon=True)
        thread.start()
        try:
            yield peak
        finally:
            stop.set()
            thread.join()
