"""
The README's examples, as they stand there.
"""

from __future__ import annotations

import re
from pathlib import Path

from psycopg_pool import ConnectionPool

README = Path(__file__).parents[2] / "README.md"


def examples() -> list[str]:
    """Return the Python blocks of the README."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_twelve_lines(vault_server, database, monkeypatch):
    """The README's first example serves a real database by a real credential, and leaves nothing behind."""
    vault_server.database_role(database, "shop")
    login = vault_server.approle(vault_server.policy(readme_policy(vault_server.mount)))
    monkeypatch.setenv("VAULT_ROLE_ID", login.role_id)
    monkeypatch.setenv("VAULT_SECRET_ID", login.secret_id)
    code = examples()[0]
    for there, here in (
        ("https://vault.example.com:8200", vault_server.address),
        ("host=db.example.com dbname=shop", database.conninfo()),
        ("AppRole.from_env()", f"AppRole.from_env(mount_point={login.mount_point!r})"),
        ("vault=vault", f"vault=vault, mount_point={vault_server.mount!r}"),
    ):
        assert there in code
        code = code.replace(there, here)

    exec(compile(code, str(README), "exec"), {})

    assert vault_server.leases() == []
    assert database.roles() == []


def readme_policy(mount: str) -> str:
    """Return the README's policy, for *mount*."""
    (policy,) = re.findall(r"```hcl\n(.*?)```", README.read_text(), re.DOTALL)
    return policy.replace("database/creds/shop", f"{mount}/creds/shop")


def test_the_holder_alone(database):
    """The README's second example swaps a pool without Vault."""
    login = database.create_login()
    conninfo = database.conninfo(user=login.user, password=login.password)
    code = examples()[1].replace('"dbname=shop"', repr(conninfo))
    another_pool = ConnectionPool(conninfo, min_size=1, open=False)
    names = {"another_pool": another_pool}

    exec(compile(code, str(README), "exec"), names)

    assert names["old"].closed
    assert another_pool.closed
