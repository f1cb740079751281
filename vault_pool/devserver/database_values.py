"""
What the database engine keeps: connections and roles, and the fields that they are written with.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import Any, Final

from vault_pool.devserver.framework import FLAG, LIST, SECONDS, STRINGS, TEXT

CONFIG_FIELDS: Final = {
    "plugin_name": TEXT,
    "plugin_version": TEXT,
    "verify_connection": FLAG,
    "allowed_roles": STRINGS,
    "root_rotation_statements": LIST,
    "password_policy": TEXT,
}
ROLE_FIELDS: Final = {
    "db_name": TEXT,
    "creation_statements": LIST,
    "revocation_statements": LIST,
    "rollback_statements": LIST,
    "renew_statements": LIST,
    "default_ttl": SECONDS,
    "max_ttl": SECONDS,
    "credential_type": TEXT,
}
# What a role is as long as nothing else was said.
NEW_ROLE: Final[dict[str, Any]] = {
    "creation_statements": [],
    "credential_type": "password",
    "db_name": "",
    "default_ttl": 0,
    "max_ttl": 0,
    "renew_statements": [],
    "revocation_statements": [],
    "rollback_statements": [],
}


@dataclass(slots=True, kw_only=True)
class Config:
    """
    One connection; *details* is what the plugin gets, the administrator's password among it.
    """

    allowed_roles: list[str] = field(default_factory=list)
    plugin_name: str = ""
    plugin_version: str = ""
    password_policy: str = ""
    root_rotation_statements: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict, repr=False)

    def allows(self, role: str) -> bool:
        """
        Tell whether *role* may be handed out.
        """
        return any(fnmatch.fnmatchcase(role, pattern) for pattern in self.allowed_roles)

    def show(self) -> dict[str, Any]:
        """
        Return what a read shows: no password.
        """
        return {
            "allowed_roles": self.allowed_roles,
            "connection_details": {name: value for name, value in self.details.items() if name != "password"},
            "password_policy": self.password_policy,
            "plugin_name": self.plugin_name,
            "plugin_version": self.plugin_version,
            "root_credentials_rotate_statements": self.root_rotation_statements,
        }
