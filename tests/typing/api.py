"""
What type checkers make of the public names: checked by `make typing`, never run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import TupleRow, dict_row
from psycopg_pool import ConnectionPool
from typing_extensions import assert_type

from vault_pool import AppRole, DynamicRole, HotSwapPool, PoolStatus, RenewalPolicy, Token, Vault, VaultPool
from vault_pool.events import Event, PoolReplaced

vault = Vault("https://vault.example.com:8200", auth=AppRole.from_env())
other = Vault(address="https://vault.example.com:8200", auth=Token("…"), namespace="team", verify="/etc/ca.pem")


def listen(event: Event) -> None:
    """Narrow an event by its class."""
    if isinstance(event, PoolReplaced):
        assert_type(event.generation, int)
        assert_type(event.user, str)


pool = VaultPool(
    "host=db.example.com dbname=shop",
    source=DynamicRole("shop", vault=vault, mount_point="database"),
    min_size=2,
    max_size=10,
    overlap=1,
    retire_timeout=20.0,
    policy=RenewalPolicy(jitter=0.05),
    on_event=listen,
)

with pool as entered, entered.connection(timeout=3) as conn:
    assert_type(conn, psycopg.Connection[TupleRow])

assert_type(pool.status(), PoolStatus)
assert_type(pool.status().expires_in, float | None)
assert_type(pool.rotate(wait=True, timeout=None), None)
assert_type(pool.get_stats(), dict[str, int])


# The type of a connection goes through, as with psycopg_pool.
DictConnection = psycopg.Connection[dict[str, Any]]

typed: VaultPool[DictConnection] = VaultPool(
    source=DynamicRole("shop", vault=vault),
    connection_class=DictConnection,
    kwargs={"row_factory": dict_row},
)
with typed.connection() as dict_conn:
    assert_type(dict_conn, DictConnection)
    assert_type(dict_conn.execute("SELECT 1").fetchone(), dict[str, Any] | None)

# The holder on its own: a drop-in, generic as the original is.
raw: ConnectionPool[psycopg.Connection[TupleRow]] = ConnectionPool("dbname=shop", open=False)
holder = HotSwapPool(raw)
with holder.connection() as raw_conn:
    assert_type(raw_conn, psycopg.Connection[TupleRow])
old = holder.replace(raw, retire=False, timeout=5.0)
assert_type(old, ConnectionPool[psycopg.Connection[TupleRow]])


def takes_a_pool(checkout: Callable[..., object]) -> None:
    """Accept what both pools have."""
    checkout()


takes_a_pool(raw.getconn)
takes_a_pool(pool.getconn)

# What must not type-check; a checker that finds nothing here fails by the unused comment.
VaultPool("dbname=shop")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
DynamicRole("shop", vault="https://…")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
pool.status().generation = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
