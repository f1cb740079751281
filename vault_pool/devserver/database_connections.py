"""
The connections of the database engine: how they are configured, and the plugin that each has.

vault: ``builtin/logical/database/path_config_connection.go`` and ``path_rotate_credentials.go``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from vault_pool.devserver.database_values import CONFIG_FIELDS, Config
from vault_pool.devserver.errors import BackendError, failed, refused
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route, keys
from vault_pool.devserver.passwords import DEFAULT, parse_password_policy
from vault_pool.devserver.postgresql_plugin import PostgreSQL

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_PLUGIN: Final = "postgresql-database-plugin"
_INLINE_WARNING: Final = (
    "Password found in connection_url, use a templated url to enable root rotation and prevent read access to "
    "password information."
)


class Connections:
    """
    The paths below `config/`, `reset/` and `rotate-root/`, and the plugins. Thread-safe.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._configs: dict[str, Config] = {}
        self._plugins: dict[str, PostgreSQL] = {}
        self.routes: Sequence[Route] = (
            Route(pattern="config/?", operations={"list": lambda _request, _fields: keys(list(self._configs))}),
            Route(
                pattern=f"config/{NAME}",
                fields=CONFIG_FIELDS,
                operations={"read": self._read, "update": self._write, "delete": self._delete},
                exists=lambda _request, fields: fields.text("name") in self._configs,
            ),
            Route(pattern=f"reset/{NAME}", operations={"update": self._reset}),
            Route(pattern=f"rotate-root/{NAME}", operations={"update": self._rotate_root}),
        )

    def close(self) -> None:
        """
        End all sessions.
        """
        with self._lock:
            plugins, self._plugins, self._configs = list(self._plugins.values()), {}, {}
        for plugin in plugins:
            plugin.close()

    def config(self, name: str) -> Config:
        """
        Return the configuration *name*; raise BackendError.
        """
        config = self._configs.get(name)
        if config is None:
            raise BackendError(f'failed to find entry for connection with name: "{name}"')
        return config

    def plugin(self, name: str) -> PostgreSQL:
        """
        Return the plugin of the connection *name*, connected for the first time if need be; raise BackendError.
        """
        config = self.config(name)
        plugin = self._plugins.get(name)
        if plugin is None:
            plugin = PostgreSQL(config.details, self._core.flavor, self._core.clock)
            plugin.verify()
            plugin = self._adopt(name, plugin, replace=False)
        return plugin

    def allowed(self, name: str, role: str) -> Config:
        """
        Return the configuration *name* if *role* may be handed out; raise BackendError.
        """
        config = self.config(name)
        if not config.allows(role):
            raise BackendError(f'"{role}" is not an allowed role')
        return config

    def new_password(self, config: Config, credential_config: Mapping[str, str]) -> str:
        """
        Return a password by the policy of the role's *credential_config*, or of *config*, or by the default one.
        """
        policy = credential_config.get("password_policy") or config.password_policy
        if not policy:
            return DEFAULT.generate()
        text = self._core.password_policies.get(policy)
        if text is None:
            raise BackendError(f"failed to generate password: no password policy found: {policy}")
        return parse_password_policy(text).generate()

    def _adopt(self, name: str, plugin: PostgreSQL, *, replace: bool) -> PostgreSQL:
        with self._lock:
            known = self._plugins.get(name)
            kept = plugin if replace or known is None else known
            self._plugins[name] = kept
            superfluous = known if kept is plugin else plugin
        if superfluous is not None:
            superfluous.close()
        return kept

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        config = self._configs.get(fields.text("name"))
        return None if config is None else Reply(data=config.show())

    def _write(self, request: Request, fields: Fields) -> Reply | None:
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

    def _delete(self, _request: Request, fields: Fields) -> None:
        self._configs.pop(fields.text("name"), None)
        self._drop_plugin(fields.text("name"))

    def _drop_plugin(self, name: str) -> None:
        with self._lock:
            plugin = self._plugins.pop(name, None)
        if plugin is not None:
            plugin.close()

    def _reset(self, _request: Request, fields: Fields) -> None:
        try:
            self.config(fields.text("name"))
            self._drop_plugin(fields.text("name"))
            self.plugin(fields.text("name"))
        except BackendError as error:
            raise failed(str(error)) from None

    def _rotate_root(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name")
        try:
            config = self.config(name)
            username = config.administrator("username")
            config.administrator("password")
            password = self.new_password(config, {})
            plugin = self.plugin(name)
        except BackendError as error:
            raise failed(str(error)) from None
        try:
            plugin.change_password(config.root_rotation_statements, username, password)
        except BackendError as error:
            raise failed(f"failed to update user: {error}") from None
        config.details["password"] = password
        self._adopt(name, PostgreSQL(config.details, self._core.flavor, self._core.clock), replace=True)
