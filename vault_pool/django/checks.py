"""
System checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured

from vault_pool.django.settings import new_pool

_ENGINE = "vault_pool.django"


def check_databases(**_kwargs: Any) -> list[CheckMessage]:
    """
    Return what is wrong with the databases of our engine; nothing is opened, and no secret is in a message.
    """
    return [
        message
        for alias, database in settings.DATABASES.items()
        if database.get("ENGINE") == _ENGINE
        for message in _messages(alias, database)
    ]


def _messages(alias: str, database: dict[str, Any]) -> Iterator[CheckMessage]:
    try:
        # Not by the name of the one that is used: `VaultPool.find` would find this.
        new_pool(alias, database, template=None, name=f"{alias} (checked)")
    except ImproperlyConfigured as error:
        yield Error(
            str(error), hint="`python -m vault_pool.settings` lists the settings of VAULT.", id="vault_pool.E001"
        )
        return
    given = {str(key).lower(): value for key, value in database["VAULT"].items()}
    assumed = given.get("assume_role") or (database.get("OPTIONS") or {}).get("assume_role")
    if given.get("source", "dynamic_role") == "dynamic_role" and not assumed:
        yield CheckWarning(
            f"DATABASES[{alias!r}] names no assume_role: what migrations create belongs to the dynamic role of that "
            "day, which cannot be dropped then, and whose successors may not alter it.",
            hint="Set VAULT['ASSUME_ROLE'] to a role that owns the tables. Silence this check where Vault's "
            "creation_statements do it, by ALTER ROLE … SET role.",
            id="vault_pool.W001",
        )
