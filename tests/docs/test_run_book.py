"""
Texts that the run-book quotes.
"""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from vault_pool import DynamicRole, Token, Vault, VaultError, VaultPool


def test_an_administrator_without_the_admin_option(vault_server, database):
    """From PostgreSQL 16 on it cannot make members of a group that somebody else created; Vault says so."""
    if database.server.version < 16:
        pytest.skip("before PostgreSQL 16 CREATEROLE was enough")
    database.superuser_execute(
        sql.SQL("REVOKE ADMIN OPTION FOR {} FROM {}").format(
            *map(sql.Identifier, (database.group, database.admin.user))
        )
    )
    vault_server.database_role(database)
    vault = Vault(vault_server.address, auth=Token(vault_server.root_token))
    pool = VaultPool(
        database.conninfo(), source=DynamicRole("app", vault=vault, mount_point=vault_server.mount), min_size=1
    )
    with pytest.raises((VaultError, psycopg.OperationalError), match="permission denied to grant role"):
        pool.open(timeout=1)


@pytest.mark.parametrize(
    ("statements", "text"),
    [
        ([], "permission denied for table mine"),
        (['DROP ROLE IF EXISTS "{{name}}";'], "cannot be dropped because some objects depend on it"),
    ],
    ids=["Vault's own statements", "only DROP ROLE"],
)
def test_a_user_that_owns_something_cannot_be_dropped(vault_server, database, statements, text):
    """Its revocation fails; with what it owns given to the group, the next one succeeds."""
    vault_server.database_role(database, revocation_statements=statements)
    database.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(database.group)))
    login, answer = vault_server.creds()
    with database.connect(login, autocommit=True) as conn:
        conn.execute("CREATE TABLE mine (id int)")
    status, refusal = vault_server.api("PUT", "sys/leases/revoke", {"lease_id": answer["lease_id"], "sync": True})
    assert status == 400
    assert text in str(refusal)

    names = [sql.Identifier(name) for name in (login.user, database.group)]
    with database.server.connect(dbname=database.name, autocommit=True) as conn:
        conn.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(*names))
        conn.execute(sql.SQL("DROP OWNED BY {}").format(names[0]))
        if not statements:
            # Vault's own also revoke rights on all tables, which only their owner may.
            conn.execute(sql.SQL("ALTER TABLE mine OWNER TO {}").format(sql.Identifier(database.admin.user)))
    vault_server.revoke(answer["lease_id"])
    assert database.roles() == []
