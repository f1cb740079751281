"""
What only a server can refuse when a pool opens, beyond what test_vault_pool.py has: the error says what to mend.
"""

from __future__ import annotations

import pytest

from tests.fix_vault import running
from vault_pool import DynamicRole, PoolError, Token, Vault, VaultPool, VaultRefused, VaultUnavailable
from vault_pool.devserver import DevServer
from vault_pool.errors import ConfigurationError, VaultError


@pytest.fixture
def open_pool(no_leaks, vault_server, database):
    """Return a function that fails to open a pool, and returns the error."""

    def attempt(error, *, address=None, token=None, timeout=5.0, conninfo=None, verify=True, **options):
        vault = Vault(
            address or vault_server.address, auth=Token(token or vault_server.root_token), timeout=2.0, verify=verify
        )
        source = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
        pool = VaultPool(conninfo or database.conninfo(), source=source, min_size=1, **options)
        with pytest.raises(error) as caught:
            pool.open(timeout=timeout)
        assert pool.closed
        assert pool.status().last_error
        return caught.value

    return attempt


def test_a_role_that_the_connection_does_not_allow(open_pool, vault_server, database):
    """allowed_roles of the database's configuration: the error names the role, and is raised at once."""
    vault_server.database_role(database)
    vault_server.ask("POST", f"{vault_server.mount}/config/{database.name}", {"allowed_roles": "other"})
    error = open_pool(VaultError, timeout=30.0)

    assert "app" in str(error)
    assert not error.retryable
    assert vault_server.leases() == []


def test_a_mount_point_that_is_none(open_pool, vault_server):
    """The error names the path."""
    error = open_pool(VaultRefused, timeout=30.0)
    assert vault_server.mount in str(error)


def test_a_database_that_vault_cannot_reach(open_pool, vault_server, database):
    """Vault's own words; it is tried again until the timeout, since the database may come back."""
    vault_server.database_role(database)
    database.superuser_execute(f'ALTER ROLE "{database.admin.user}" NOLOGIN')
    database.superuser_execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
    database.superuser_execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = %s AND pid <> %s",
        [database.name, database.admin.user, database._inside.info.backend_pid],
    )
    error = open_pool(VaultError, timeout=1.0)
    assert f"{vault_server.mount}/creds/app" in str(error)


def test_creation_statements_that_fail(open_pool, vault_server, database):
    """A role that Vault cannot create is told, and leaves none."""
    vault_server.database_role(database, creation_statements=['CREATE ROLE "{{name}}" LOGIN NONSENSE'])
    error = open_pool(VaultError, timeout=1.0)

    assert f"{vault_server.mount}/creds/app" in str(error)
    assert database.roles() == vault_server.leases() == []


def test_a_role_that_may_not_connect_to_the_database(open_pool, vault_server, database):
    """PostgreSQL's own words, and the credential is given back."""
    vault_server.database_role(database)
    database.execute(f'REVOKE CONNECT ON DATABASE "{database.name}" FROM PUBLIC')
    error = open_pool(PoolError, timeout=1.0)

    assert "permission denied for database" in str(error)
    assert database.roles() == vault_server.leases() == []


def test_a_database_that_is_not_there(open_pool, vault_server, database):
    """The same."""
    vault_server.database_role(database)
    error = open_pool(PoolError, conninfo=database.conninfo(dbname="nonsense"), timeout=1.0)

    assert '"nonsense" does not exist' in str(error)
    assert database.roles() == vault_server.leases() == []


def test_a_sealed_vault(no_leaks, database):
    """The error says that it is sealed; it is tried again until the timeout, since somebody may unseal it."""
    with running("devserver") as server:
        server.ask("PUT", "sys/seal")
        pool = VaultPool(database.conninfo(), source=DynamicRole("app", vault=Vault(server.address, auth=Token("x"))))
        with pytest.raises(VaultUnavailable, match="sealed"):
            pool.open(timeout=1.0)


def test_a_certificate_of_an_authority_that_is_not_known(no_leaks, database):
    """It is a setting that somebody has to mend: the error names it at once."""
    with DevServer(tls=True) as server:
        vault = Vault(server.address, auth=Token(server.root_token), timeout=2.0)
        pool = VaultPool(database.conninfo(), source=DynamicRole("app", vault=vault))
        with pytest.raises(VaultError, match=r"(?i)certificate"):
            pool.open(timeout=2.0)


@pytest.mark.parametrize("options", [{"kwargs": {"user": "me"}}, {"conninfo": "postgresql://me@x/db"}])
def test_a_user_beside_the_source_is_refused_when_it_is_known(options):
    """A pool that ignored it would surprise whoever wrote it."""
    source = DynamicRole("app", vault=Vault("http://127.0.0.1:1", auth=Token("t")))
    with pytest.raises(ConfigurationError, match="user"):
        VaultPool(**{"conninfo": "dbname=x", **options}, source=source)
