"""
What demos and tests set up, in words; all of it goes through the API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CREATION: Final = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"


class DevServerError(Exception):
    """
    The server refused what its own set-up asked for; the text is the answer's.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRoleLogin:
    """
    What a machine logs in with.
    """

    role_id: str
    secret_id: str = field(repr=False)


class Shortcuts:
    """
    Short ways to a database, roles, policies, tokens and AppRoles.
    """

    root_token: str

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any] | None]:
        """
        Answer a request.
        """
        raise NotImplementedError

    def enable_database(
        self,
        dsn: str = "",
        *,
        mount_point: str = "database",
        name: str = "postgresql",
        default_lease_ttl: str | int = 0,
        max_lease_ttl: str | int = 0,
        **params: Any,
    ) -> None:
        """
        Mount a database secrets engine and connect it, as the administrator, to the PostgreSQL of *dsn* and *params*.

        They are `psycopg.connect()`'s: a URL or conninfo, and host, port, dbname, user, password. Any role may be
        handed out; make them with `add_role()`. Raise DevServerError where Vault would refuse, for example because
        the database does not answer.
        """
        given = conninfo_to_dict(make_conninfo(dsn, **params))
        username, password = str(given.pop("user", "postgres")), str(given.pop("password", ""))
        config = {"default_lease_ttl": default_lease_ttl, "max_lease_ttl": max_lease_ttl}
        self._write(f"sys/mounts/{mount_point}", {"type": "database", "config": config})
        host, port, dbname = (quote(str(given.pop(key, "")), safe="") for key in ("host", "port", "dbname"))
        place = f"{host}{f':{port}' if port else ''}/{dbname or quote(username, safe='')}"
        url = f"postgresql://{{{{username}}}}:{{{{password}}}}@{place}?{urlencode(given, quote_via=quote)}"
        self._write(
            f"{mount_point}/config/{name}",
            {
                "plugin_name": "postgresql-database-plugin",
                "allowed_roles": "*",
                "connection_url": url.rstrip("?"),
                "username": username,
                "password": password,
            },
        )

    def add_role(
        self,
        name: str,
        *,
        mount_point: str = "database",
        db_name: str = "postgresql",
        in_role: str = "",
        default_ttl: str | int = "1h",
        max_ttl: str | int = "24h",
        **fields: Any,
    ) -> None:
        """
        Make a role of the database engine, whose users are members of the group *in_role*, if any.

        *fields* are those of Vault's API, for example creation_statements.
        """
        quoted = in_role.replace('"', '""')
        statement = f'{CREATION} IN ROLE "{quoted}";' if in_role else f"{CREATION};"
        body = {"db_name": db_name, "default_ttl": default_ttl, "max_ttl": max_ttl, "creation_statements": [statement]}
        self._write(f"{mount_point}/roles/{name}", {**body, **fields})

    def add_policy(self, name: str, text: str) -> None:
        """
        Write the policy *name*, as HCL or JSON.
        """
        self._write(f"sys/policies/acl/{name}", {"policy": text})

    def add_token(self, policies: Sequence[str] = (), **fields: Any) -> str:
        """
        Make a token with *policies*; *fields* are those of `auth/token/create`.
        """
        made = self._write("auth/token/create", {"policies": list(policies), **fields})
        return str(made["auth"]["client_token"])

    def add_approle(
        self, name: str, policies: Sequence[str] = (), *, mount_point: str = "approle", **fields: Any
    ) -> AppRoleLogin:
        """
        Make the AppRole *name*, mounting the method if need be; *fields* are those of Vault's API.
        """
        _, mounted = self.request("GET", "sys/auth", token=self.root_token)
        if mounted is None or f"{mount_point}/" not in mounted["data"]:
            self._write(f"sys/auth/{mount_point}", {"type": "approle"})
        role = f"auth/{mount_point}/role/{name}"
        self._write(role, {"token_policies": list(policies), **fields})
        _, read = self.request("GET", f"{role}/role-id", token=self.root_token)
        made = self._write(f"{role}/secret-id", {})
        assert read is not None
        return AppRoleLogin(role_id=read["data"]["role_id"], secret_id=made["data"]["secret_id"])

    def _write(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        status, answer = self.request("POST", path, body, self.root_token)
        if status >= 400:
            raise DevServerError(f"{path}: {status} {' '.join((answer or {}).get('errors', []))}")
        return answer or {}
