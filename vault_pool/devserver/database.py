"""
The database secrets engine: roles, and credentials on demand.

vault: ``builtin/logical/database``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver import usernames
from vault_pool.devserver.database_connections import Connections
from vault_pool.devserver.database_values import NEW_ROLE, ROLE_FIELDS
from vault_pool.devserver.errors import BackendError, failed, refused
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route, Secret, keys
from vault_pool.devserver.leases import Lease
from vault_pool.devserver.static_roles import StaticRoles
from vault_pool.devserver.ttl import Limits, Wish, calculate_ttl

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

# vault: VALID UNTIL is a little later than the lease's end, so that the lease ends first.
_VALID_LONGER: Final = 5.0
_CREDENTIAL_TYPES: Final = ("password", "rsa_private_key", "client_certificate")


class DatabaseEngine:
    """
    The engine, with one plugin per connection. Thread-safe.
    """

    kind: Final = "database"
    open_paths: Final[Sequence[str]] = ()
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._roles: dict[str, dict[str, Any]] = {}
        self._connections = Connections(core)
        self._static = StaticRoles(core, self._connections, lambda name: name in self._roles)
        self.routes: Sequence[Route] = (
            *self._connections.routes,
            Route(pattern="roles/?", operations={"list": lambda _request, _fields: keys(list(self._roles))}),
            Route(
                pattern=f"roles/{NAME}",
                fields=ROLE_FIELDS,
                operations={"read": self._read_role, "update": self._write_role, "delete": self._delete_role},
                exists=lambda _request, fields: fields.text("name") in self._roles,
            ),
            Route(pattern=f"creds/{NAME}", operations={"read": self._creds}),
            *self._static.routes,
        )

    def close(self) -> None:
        """
        Rotate no more, and end all sessions.
        """
        self._static.close()
        self._connections.close()

    def renew(self, lease: Lease, increment: int, limits: Limits) -> Wish:
        """
        Move VALID UNTIL; the role's present TTLs count.
        """
        role = self._roles.get(lease.internal["role"])
        if role is None:
            raise BackendError(f'error during renew: could not find role with name "{lease.internal["role"]}"')
        plugin = self._connections.plugin(role["db_name"])
        wish = _wish(role)
        now = self._core.clock.now()
        ttl, _ = calculate_ttl(limits, wish, now=now, start=lease.issue_time, increment=increment)
        plugin.extend_user(role["renew_statements"], lease.internal["username"], now + ttl + _VALID_LONGER)
        return wish

    def revoke(self, lease: Lease) -> None:
        """
        Drop the database role, with the statements of the role as it is now, or as it was if it is gone.
        """
        role = self._roles.get(lease.internal["role"]) or lease.internal
        self._connections.plugin(role["db_name"]).delete_user(role["revocation_statements"], lease.internal["username"])

    def _read_role(self, _request: Request, fields: Fields) -> Reply | None:
        role = self._roles.get(fields.text("name"))
        return None if role is None else Reply(data=dict(role))

    def _write_role(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name")
        if self._static.has(name):
            raise refused("Role and Static Role names must be unique")
        role = {**NEW_ROLE, **self._roles.get(name, {}), **fields.within(tuple(ROLE_FIELDS))}
        if not role["db_name"]:
            raise refused("database name is required")
        if role["credential_type"] not in _CREDENTIAL_TYPES:
            raise refused(f'invalid credential_type "{role["credential_type"]}"')
        if not role.get("credential_config"):
            role.pop("credential_config", None)
        self._roles[name] = role

    def _delete_role(self, _request: Request, fields: Fields) -> None:
        self._roles.pop(fields.text("name"), None)

    def _creds(self, request: Request, fields: Fields) -> Reply:
        name = fields.text("name")
        role = self._roles.get(name)
        if role is None:
            raise refused(f"unknown role: {name}")
        assert request.entry is not None
        try:
            return self._issue(name, role, request.entry.display_name, request.mount_point)
        except BackendError as error:
            raise failed(str(error)) from None

    def _issue(self, name: str, role: dict[str, Any], display_name: str, mount_point: str) -> Reply:
        config = self._connections.allowed(role["db_name"], name)
        plugin = self._connections.plugin(role["db_name"])
        if role["credential_type"] != "password":
            raise refused(f'unsupported credential_type: "{role["credential_type"]}"')
        wish = _wish(role)
        now = self._core.clock.now()
        ttl, _ = calculate_ttl(self._core.limits(mount_point), wish, now=now)
        template = config.details.get("username_template") or usernames.DEFAULT
        username = usernames.generate(template, display_name, name)
        password = self._connections.new_password(config, role.get("credential_config", {}))
        plugin.new_user(role["creation_statements"], username, password, now + ttl + _VALID_LONGER)
        internal = {
            "username": username,
            "role": name,
            "db_name": role["db_name"],
            "revocation_statements": role["revocation_statements"],
        }
        return Reply(data={"username": username, "password": password}, secret=Secret(wish=wish, internal=internal))


def _wish(role: dict[str, Any]) -> Wish:
    return Wish(ttl=role["default_ttl"], max_ttl=role["max_ttl"])
