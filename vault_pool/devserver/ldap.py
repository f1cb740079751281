"""
`auth/ldap`: people log in with the name and password that a directory knows.

vault: ``builtin/credential/ldap``. With a `url` that directory is asked (`ldap_directory.py`); without one, the
development server's own, which is held in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import BackendError, InvalidCredentials, denied, refused
from vault_pool.devserver.field_types import FLAG, NUMBER, STRINGS, TEXT
from vault_pool.devserver.framework import Fields, Reply, Request, Route, keys
from vault_pool.devserver.ldap_directory import Directory, NetworkDirectory
from vault_pool.devserver.lockout import Lockout
from vault_pool.devserver.login_role import TOKEN_FIELDS, check_policies, grant, token_settings, token_wish
from vault_pool.devserver.token_entry import Auth, in_networks
from vault_pool.devserver.ttl import Wish

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_CONFIG_FIELDS: Final = {
    "url": TEXT,
    "userdn": TEXT,
    "userattr": TEXT,
    "groupdn": TEXT,
    "groupattr": TEXT,
    "groupfilter": TEXT,
    "userfilter": TEXT,
    "upndomain": TEXT,
    "binddn": TEXT,
    "bindpass": TEXT,
    "certificate": TEXT,
    "tls_min_version": TEXT,
    "tls_max_version": TEXT,
    "insecure_tls": FLAG,
    "starttls": FLAG,
    "discoverdn": FLAG,
    "deny_null_bind": FLAG,
    "case_sensitive_names": FLAG,
    "use_token_groups": FLAG,
    "username_as_alias": FLAG,
    "anonymous_group_search": FLAG,
    "request_timeout": NUMBER,
}
_NEW_CONFIG: Final[Mapping[str, Any]] = {
    "url": "",
    "userdn": "",
    "userattr": "cn",
    "groupdn": "",
    "certificate": "",
    "insecure_tls": False,
    "deny_null_bind": True,
    "case_sensitive_names": False,
}
_MAPPING_FIELDS: Final = {"groups": STRINGS, "policies": STRINGS}
_UNKNOWN: Final = "ldap operation failed: failed to bind as user"


class LdapEngine:
    """
    The auth method. Thread-safe.
    """

    kind: Final = "ldap"
    open_paths: Final[Sequence[str]] = ("login/*",)
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._config: dict[str, Any] | None = None
        # Of "users" and of "groups", by their names.
        self._mappings: dict[str, dict[str, dict[str, list[str]]]] = {"users": {}, "groups": {}}
        self.lockout = Lockout(core.clock)
        self.routes: Sequence[Route] = (
            Route(pattern="login/(?P<username>.+)", fields={"password": TEXT}, operations={"update": self._login}),
            Route(
                pattern="config",
                fields={**TOKEN_FIELDS, **_CONFIG_FIELDS},
                operations={"read": self._read_config, "update": self._write_config},
            ),
            Route(pattern="(?P<kind>users|groups)/?", operations={"list": self._list}),
            Route(
                pattern="(?P<kind>users|groups)/(?P<name>.+)",
                fields=_MAPPING_FIELDS,
                operations={"read": self._read, "update": self._write, "delete": self._delete},
            ),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """

    def renewed_wish(self, auth: Auth, _request: Request) -> Wish:
        """
        Log in again; the policies must be the same. vault: ``pathLoginRenew``.
        """
        config = self._configured()
        policies = self._policies(config, auth.internal["username"], auth.internal["password"])
        check_policies([*config["token_policies"], *policies], auth)
        return token_wish(config)

    def _configured(self) -> dict[str, Any]:
        if self._config is None:
            raise refused("auth method not configured")
        return self._config

    def _read_config(self, _request: Request, _fields: Fields) -> Reply | None:
        if self._config is None:
            return None
        return Reply(data={name: value for name, value in sorted(self._config.items()) if name != "bindpass"})

    def _write_config(self, _request: Request, fields: Fields) -> None:
        known = self._config
        config = {**_NEW_CONFIG, **(known or {}), **fields.within(tuple(_CONFIG_FIELDS))}
        self._config = config | token_settings(known, fields, openbao=self._core.flavor.openbao)

    def _list(self, _request: Request, fields: Fields) -> Reply | None:
        return keys(list(self._mappings[fields.text("kind")]))

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        found = self._mappings[fields.text("kind")].get(self._name(fields.text("name")))
        if found is None:
            return None
        of_user = {"groups": ",".join(found["groups"])} if fields.text("kind") == "users" else {}
        return Reply(data={"policies": found["policies"], **of_user})

    def _write(self, _request: Request, fields: Fields) -> None:
        groups = [self._name(one) for one in fields.get("groups", [])]
        name = self._name(fields.text("name"))
        self._mappings[fields.text("kind")][name] = {"groups": groups, "policies": fields.get("policies", [])}

    def _delete(self, _request: Request, fields: Fields) -> None:
        self._mappings[fields.text("kind")].pop(self._name(fields.text("name")), None)

    def _name(self, name: str) -> str:
        sensitive = self._config is not None and self._config["case_sensitive_names"]
        return name if sensitive else name.lower()

    def _login(self, request: Request, fields: Fields) -> Reply:
        config = self._configured()
        name, password = self._name(fields.text("username").strip()), fields.text("password")
        with self.lockout.guarding(name, self._core.mounts.rules(request.mount_point)):
            if not in_networks(request.remote_address, config["token_bound_cidrs"]):
                raise denied()
            policies = self._policies(config, name, password)
        auth = grant(
            config,
            display_name=name,
            metadata={"username": name},
            policies=policies,
            entity_id=self._core.logins.entity_id(request.mount_point, name),
            internal={"username": name, "password": password},
        )
        warning = f'no LDAP groups found in groupDN "{config["groupdn"]}"; only policies from locally-defined groups '
        return Reply(auth=auth, data={}, warnings=[f"{warning}available"])

    def _policies(self, config: Mapping[str, Any], name: str, password: str) -> list[str]:
        """
        Return the policies of a user and of its groups, if the directory knows the password.
        """
        if config["deny_null_bind"] and not password:
            raise refused("password cannot be of zero length when passwordless binds are being denied")
        try:
            found = self._directory(config).groups(name, password)
        except BackendError as error:
            raise refused(str(error)) from None
        if found is None:
            raise InvalidCredentials(400, _UNKNOWN)
        user = self._mappings["users"].get(name, {"groups": [], "policies": []})
        known = self._mappings["groups"]
        groups = [self._name(group) for group in (*user["groups"], *found)]
        return [
            *user["policies"],
            *(policy for group in groups if group in known for policy in known[group]["policies"]),
        ]

    def _directory(self, config: Mapping[str, Any]) -> Directory:
        if not config["url"]:
            return self._core.logins.directory
        return NetworkDirectory(
            urls=[one.strip() for one in config["url"].split(",")],
            userattr=config["userattr"],
            userdn=config["userdn"],
            trust=config["certificate"],
            insecure=config["insecure_tls"],
        )
