"""
The database secrets engine: connections, roles, and credentials on demand.

vault: ``builtin/logical/database``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from vault_pool.devserver import usernames
from vault_pool.devserver.database_values import CONFIG_FIELDS, NEW_ROLE, ROLE_FIELDS, Config
from vault_pool.devserver.errors import BackendError, failed, refused
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route, Secret, keys
from vault_pool.devserver.leases import Lease
from vault_pool.devserver.passwords import DEFAULT, parse_password_policy
from vault_pool.devserver.postgresql_plugin import PostgreSQL
from vault_pool.devserver.static_roles import StaticRoles
from vault_pool.devserver.ttl import Limits, Wish, calculate_ttl

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

# vault: VALID UNTIL is a little later than the lease's end, so that the lease ends first.
_VALID_LONGER: Final = 5.0
_CREDENTIAL_TYPES: Final = ("password", "rsa_private_key", "client_certificate")
_PLUGIN: Final = "postgresql-database-plugin"
_INLINE_WARNING: Final = (
    "Password found in connection_url, use a templated url to enable root rotation and prevent read access to "
    "password information."
)


class DatabaseEngine:
    """
    The engine, with one plugin per connection. Thread-safe.
    """

    kind: Final = "database"
    open_paths: Final[Sequence[str]] = ()
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._configs: dict[str, Config] = {}
        self._roles: dict[str, dict[str, Any]] = {}
        self._plugins: dict[str, PostgreSQL] = {}
        self.routes: Sequence[Route] = (
            Route(pattern="config/?", operations={"list": lambda _request, _fields: keys(list(self._configs))}),
            Route(
                pattern=f"config/{NAME}",
                fields=CONFIG_FIELDS,
                operations={"read": self._read_config, "update": self._write_config, "delete": self._delete_config},
                exists=lambda _request, fields: fields.text("name") in self._configs,
            ),
            Route(pattern=f"reset/{NAME}", operations={"update": self._reset}),
            Route(pattern=f"rotate-root/{NAME}", operations={"update": self._rotate_root}),
            Route(pattern="roles/?", operations={"list": lambda _request, _fields: keys(list(self._roles))}),
            Route(
                pattern=f"roles/{NAME}",
                fields=ROLE_FIELDS,
                operations={"read": self._read_role, "update": self._write_role, "delete": self._delete_role},
                exists=lambda _request, fields: fields.text("name") in self._roles,
            ),
            Route(pattern=f"creds/{NAME}", operations={"read": self._creds}),
            *StaticRoles(lambda name: name in self._roles).routes,
        )

    def close(self) -> None:
        """
        End all sessions.
        """
        with self._lock:
            plugins, self._plugins, self._configs = list(self._plugins.values()), {}, {}
        for plugin in plugins:
            plugin.close()

    def renew(self, lease: Lease, increment: int, limits: Limits) -> Wish:
        """
        Move VALID UNTIL; the role's present TTLs count.
        """
        role = self._roles.get(lease.internal["role"])
        if role is None:
            raise BackendError(f'error during renew: could not find role with name "{lease.internal["role"]}"')
        plugin = self._plugin(role["db_name"])
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
        self._plugin(role["db_name"]).delete_user(role["revocation_statements"], lease.internal["username"])

    def _config(self, name: str) -> Config:
        config = self._configs.get(name)
        if config is None:
            raise BackendError(f'failed to find entry for connection with name: "{name}"')
        return config

    def _plugin(self, name: str) -> PostgreSQL:
        """
        Return the plugin of the connection *name*, connected for the first time if need be.
        """
        config = self._config(name)
        plugin = self._plugins.get(name)
        if plugin is None:
            plugin = PostgreSQL(config.details, self._core.flavor, self._core.clock)
            plugin.verify()
            plugin = self._adopt(name, plugin, replace=False)
        return plugin

    def _adopt(self, name: str, plugin: PostgreSQL, *, replace: bool) -> PostgreSQL:
        with self._lock:
            known = self._plugins.get(name)
            kept = plugin if replace or known is None else known
            self._plugins[name] = kept
            superfluous = known if kept is plugin else plugin
        if superfluous is not None:
            superfluous.close()
        return kept

    def _read_config(self, _request: Request, fields: Fields) -> Reply | None:
        config = self._configs.get(fields.text("name"))
        return None if config is None else Reply(data=config.show())

    def _write_config(self, request: Request, fields: Fields) -> Reply | None:
        known = self._configs.get(fields.text("name")) or Config()
        details = {name: value for name, value in request.data.items() if name not in CONFIG_FIELDS}
        config = Config(
            allowed_roles=fields.get("allowed_roles", known.allowed_roles),
            plugin_name=fields.get("plugin_name", known.plugin_name),
            plugin_version=fields.get("plugin_version", known.plugin_version),
            password_policy=fields.get("password_policy", known.password_policy),
            root_rotation_statements=fields.get("root_rotation_statements", known.root_rotation_statements),
            details=known.details | details,
        )
        if not config.plugin_name:
            raise refused("empty plugin name")
        if config.plugin_name != _PLUGIN:
            missing = f"\t* plugin not found in the catalog: {config.plugin_name}\n"
            text = f"2 errors occurred:\n{missing}{missing}\n"
            raise refused(f"error creating database object: invalid database version: {text}")
        try:
            plugin = PostgreSQL(config.details, self._core.flavor, self._core.clock)
            if fields.get("verify_connection", True):
                plugin.verify()
        except BackendError as error:
            raise refused(f"error creating database object: {error}") from None
        self._configs[fields.text("name")] = config
        self._adopt(fields.text("name"), plugin, replace=True)
        inline = urlsplit(str(config.details["connection_url"])).password
        return Reply(warnings=[_INLINE_WARNING]) if inline and inline != "{{password}}" else None

    def _delete_config(self, _request: Request, fields: Fields) -> None:
        self._configs.pop(fields.text("name"), None)
        self._drop_plugin(fields.text("name"))

    def _drop_plugin(self, name: str) -> None:
        with self._lock:
            plugin = self._plugins.pop(name, None)
        if plugin is not None:
            plugin.close()

    def _reset(self, _request: Request, fields: Fields) -> None:
        try:
            self._config(fields.text("name"))
            self._drop_plugin(fields.text("name"))
            self._plugin(fields.text("name"))
        except BackendError as error:
            raise failed(str(error)) from None

    def _rotate_root(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name")
        try:
            config = self._config(name)
            if not config.details.get("username") or not config.details.get("password"):
                raise refused("unable to rotate root credentials: no username in configuration")
            password = self._new_password(config)
            self._plugin(name).change_password(config.root_rotation_statements, config.details["username"], password)
        except BackendError as error:
            raise failed(str(error)) from None
        config.details["password"] = password
        self._adopt(name, PostgreSQL(config.details, self._core.flavor, self._core.clock), replace=True)

    def _read_role(self, _request: Request, fields: Fields) -> Reply | None:
        role = self._roles.get(fields.text("name"))
        return None if role is None else Reply(data=dict(role))

    def _write_role(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name")
        role = {**NEW_ROLE, **self._roles.get(name, {}), **fields.within(tuple(ROLE_FIELDS))}
        if not role["db_name"]:
            raise refused("database name is required")
        if role["credential_type"] not in _CREDENTIAL_TYPES:
            raise refused(f'invalid credential_type "{role["credential_type"]}"')
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
        config = self._config(role["db_name"])
        if not config.allows(name):
            raise BackendError(f'"{name}" is not an allowed role')
        plugin = self._plugin(role["db_name"])
        if role["credential_type"] != "password":
            raise refused(f'unsupported credential_type: "{role["credential_type"]}"')
        wish = _wish(role)
        now = self._core.clock.now()
        ttl, _ = calculate_ttl(self._core.limits(mount_point), wish, now=now)
        template = config.details.get("username_template") or usernames.DEFAULT
        username = usernames.generate(template, display_name, name)
        password = self._new_password(config)
        plugin.new_user(role["creation_statements"], username, password, now + ttl + _VALID_LONGER)
        internal = {
            "username": username,
            "role": name,
            "db_name": role["db_name"],
            "revocation_statements": role["revocation_statements"],
        }
        return Reply(data={"username": username, "password": password}, secret=Secret(wish=wish, internal=internal))

    def _new_password(self, config: Config) -> str:
        if not config.password_policy:
            return DEFAULT.generate()
        text = self._core.password_policies.get(config.password_policy)
        if text is None:
            raise BackendError(f"failed to generate password: no password policy found: {config.password_policy}")
        return parse_password_policy(text).generate()


def _wish(role: dict[str, Any]) -> Wish:
    return Wish(ttl=role["default_ttl"], max_ttl=role["max_ttl"])
