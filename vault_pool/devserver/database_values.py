"""
What the database engine keeps: connections and roles, and the fields that they are written with.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vault_pool.devserver.errors import BackendError
from vault_pool.devserver.field_types import FLAG, LIST, NUMBER, PAIRS, SECONDS, STRINGS, TEXT, kind_of
from vault_pool.devserver.flavor import Flavor

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
    "credential_config": PAIRS,
}
# What the plugin reads of its details.
_DETAIL_FIELDS: Final = {
    "connection_url": TEXT,
    "username": TEXT,
    "password": TEXT,
    "max_open_connections": NUMBER,
    "max_idle_connections": NUMBER,
    "disable_escaping": FLAG,
}
_PASSWORD_AUTHENTICATION: Final = ("password", "scram-sha-256")
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

    def administrator(self, detail: str) -> str:
        """
        Return the administrator's username or password, for a rotation of it; raise BackendError without one.
        """
        if not self.details.get(detail):
            raise BackendError(f"unable to rotate root credentials: no {detail} in configuration")
        return str(self.details[detail])

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


def checked_details(details: Mapping[str, Any], flavor: Flavor) -> dict[str, Any]:
    """
    Return what the plugin reads of *details*, with its types; raise BackendError with Go's words.

    vault: ``connutil.SQLConnectionProducer.Init`` and ``PostgreSQL.Initialize``.
    """
    read = dict(details)
    many = "decoding failed due to the following error(s):\n\n" if flavor.openbao else "1 error(s) decoding:\n\n* "
    for name, convert in _DETAIL_FIELDS.items():
        if name in details:
            try:
                read[name] = convert(details[name], flavor)
            except ValueError as error:
                raise BackendError(many + str(error).replace("''", f"'{name}'", 1)) from None
    if not read.get("connection_url"):
        raise BackendError("connection_url cannot be empty")
    try:
        SECONDS(details.get("max_connection_lifetime"), flavor)
    except ValueError as error:
        raise BackendError(f"invalid max_connection_lifetime: {error}") from None
    for name in ("username_template", "password_authentication"):
        if name in details and not isinstance(details[name], str):
            kind = kind_of(details[name])
            raise BackendError(f"failed to retrieve {name}: invalid value at {name}: is a {kind}")
    authentication = read.get("password_authentication") or "password"
    if authentication not in _PASSWORD_AUTHENTICATION:
        raise BackendError(f"'{authentication}' is not a valid password authentication type")
    return read
