"""
`auth/approle`: machines log in with a role id and a secret id.

vault: ``builtin/credential/approle``.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from vault_pool.devserver.approle_role import Role, SecretId, check, check_cidrs, new_settings, parse_metadata
from vault_pool.devserver.errors import ApiError, BackendError, InvalidCredentials, failed, refused
from vault_pool.devserver.field_types import FLAG, NUMBER, SECONDS, STRINGS, TEXT
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route, keys
from vault_pool.devserver.lockout import Lockout
from vault_pool.devserver.login_role import TOKEN_FIELDS, grant, token_wish
from vault_pool.devserver.token_entry import Auth, in_networks
from vault_pool.devserver.ttl import Wish

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_INVALID: Final = "invalid role or secret ID"
_ROLE_FIELDS: Final = {
    "bind_secret_id": FLAG,
    "bound_cidr_list": STRINGS,
    "local_secret_ids": FLAG,
    "period": SECONDS,
    "policies": STRINGS,
    "role_id": TEXT,
    "secret_id_bound_cidrs": STRINGS,
    "secret_id_num_uses": NUMBER,
    "secret_id_ttl": SECONDS,
    **TOKEN_FIELDS,
}
_SECRET_ID_FIELDS: Final = {
    "cidr_list": STRINGS,
    "metadata": TEXT,
    "num_uses": NUMBER,
    "secret_id": TEXT,
    "token_bound_cidrs": STRINGS,
    "ttl": SECONDS,
}


class AppRoleEngine:
    """
    The auth method, with the lockout that five bad logins bring upon a role id.
    """

    kind: Final = "approle"
    open_paths: Final[Sequence[str]] = ("login",)
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._roles: dict[str, Role] = {}
        self.lockout = Lockout(core.clock)
        role = f"role/{NAME}"
        login = {"role_id": TEXT, "secret_id": TEXT}
        self.routes: Sequence[Route] = (
            Route(pattern="login", fields=login, operations=dict.fromkeys(("read", "update"), self._login)),
            Route(pattern="role/?", operations={"list": lambda _request, _fields: keys(list(self._roles))}),
            Route(
                pattern=role,
                fields=_ROLE_FIELDS,
                operations={"read": self._read, "update": self._write, "delete": self._delete},
                exists=lambda _request, fields: fields.text("name").lower() in self._roles,
            ),
            Route(
                pattern=f"{role}/role-id",
                fields={"role_id": TEXT},
                operations={"read": self._read_role_id, "update": self._write_role_id},
            ),
            Route(
                pattern=f"{role}/secret-id/?",
                fields=_SECRET_ID_FIELDS,
                operations={"update": self._make_secret_id, "list": self._list_secret_ids},
            ),
            Route(
                pattern=f"{role}/custom-secret-id",
                fields=_SECRET_ID_FIELDS,
                operations={"update": self._make_secret_id},
            ),
            Route(
                pattern=f"{role}/secret-id(?P<by_accessor>-accessor)?/(?P<action>lookup|destroy)",
                fields={"secret_id": TEXT, "secret_id_accessor": TEXT},
                operations={"update": self._on_secret_id, "delete": self._on_secret_id},
            ),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """

    def renewed_wish(self, auth: Auth, _request: Request) -> Wish:
        """
        Return what the role wants now; it must still exist.
        """
        name = auth.internal["role"]
        role = self._roles.get(name)
        if role is None:
            raise BackendError(f'role "{name}" does not exist during renewal')
        return token_wish(role.settings)

    def _login(self, request: Request, fields: Fields) -> Reply:
        role_id = fields.text("role_id")
        if not role_id:
            bao = self._core.flavor.openbao
            raise ApiError(500, "missing role_id" if bao else "failed to determine alias name from login request")
        rules = self._core.mounts.rules(request.mount_point)
        with self.lockout.guarding(role_id, rules), self._core.lock:
            role = next((one for one in self._roles.values() if one.role_id == role_id), None)
            if role is None:
                raise refused(_INVALID)
            metadata, cidrs = self._prove(role, request, fields)
        auth = grant(
            role.settings,
            metadata={"role_name": role.name, **metadata},
            entity_id=self._core.logins.entity_id(request.mount_point, role_id),
            internal={"role": role.name},
            cidrs=cidrs,
        )
        return Reply(auth=auth)

    def _prove(self, role: Role, request: Request, fields: Fields) -> tuple[Mapping[str, str], list[str]]:
        """
        Check the secret id and count its use; return its metadata and the networks that it binds the token to.
        """
        metadata: Mapping[str, str] = {}
        cidrs = role.settings["token_bound_cidrs"]
        if role.settings["bind_secret_id"]:
            if not fields.text("secret_id"):
                raise refused("missing secret_id")
            found = role.secret_ids.get(fields.text("secret_id"))
            if found is None or found.over(self._core.clock.now()):
                raise InvalidCredentials(400, _INVALID)
            if not in_networks(request.remote_address, found.cidr_list):
                raise refused(
                    f'source address "{request.remote_address}" unauthorized through CIDR restrictions on the secret ID'
                )
            if found.num_uses == 1:
                del role.secret_ids[found.secret_id]
            found.num_uses = max(0, found.num_uses - 1)
            metadata, cidrs = found.metadata, found.token_bound_cidrs or cidrs
        if not in_networks(request.remote_address, role.settings["secret_id_bound_cidrs"] or ()):
            raise refused(
                f'source address "{request.remote_address}" unauthorized by CIDR restrictions on the role: %!w(<nil>)'
            )
        return metadata, cidrs

    def _role(self, fields: Fields) -> Role | None:
        return self._roles.get(fields.text("name").lower())

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        role = self._role(fields)
        return None if role is None else Reply(data=dict(sorted(role.settings.items())))

    def _write(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name").lower()
        sent = fields.within(tuple(_ROLE_FIELDS))
        role_id = sent.pop("role_id", None)
        for old, new in (("policies", "token_policies"), ("period", "token_period")):
            if old in sent:
                sent.setdefault(new, sent.pop(old))
                sent.pop(old, None)
        sent |= {"secret_id_bound_cidrs": sent.pop("bound_cidr_list")} if "bound_cidr_list" in sent else {}
        with self._core.lock:
            role = self._roles.get(name)
            settings = {**new_settings(openbao=self._core.flavor.openbao), **(role.settings if role else {}), **sent}
            constraints = ("bind_secret_id", "secret_id_bound_cidrs", "token_bound_cidrs")
            if not any(settings[one] for one in constraints):
                raise failed("at least one constraint should be enabled on the role")
            if role is not None and "local_secret_ids" in sent:
                raise refused("local_secret_ids can only be modified during role creation")
            check(settings)
            if 0 < settings["token_max_ttl"] < settings["token_ttl"]:
                raise refused("'token_ttl' cannot be greater than 'token_max_ttl'")
            if role is None:
                role = self._roles[name] = Role(name=name, role_id=role_id or str(uuid.uuid4()), settings=settings)
            role.settings, role.role_id = settings, role_id or role.role_id

    def _delete(self, _request: Request, fields: Fields) -> None:
        self._roles.pop(fields.text("name").lower(), None)

    def _read_role_id(self, _request: Request, fields: Fields) -> Reply | None:
        role = self._role(fields)
        return None if role is None else Reply(data={"role_id": role.role_id})

    def _write_role_id(self, _request: Request, fields: Fields) -> None:
        role = self._role(fields)
        if role is None:
            raise refused("invalid role name")
        role.role_id = fields.text("role_id") or role.role_id

    def _make_secret_id(self, request: Request, fields: Fields) -> Reply:
        role = self._role(fields)
        if role is None:
            raise ApiError(404, f'role "{fields.text("name")}" does not exist')
        if request.path.endswith("/custom-secret-id") and not fields.text("secret_id"):
            raise refused("missing secret_id")
        made = SecretId(
            secret_id=fields.text("secret_id") or str(uuid.uuid4()),
            accessor=str(uuid.uuid4()),
            created=self._core.clock.now(),
            ttl=fields.get("ttl", role.settings["secret_id_ttl"]),
            num_uses=fields.get("num_uses", role.settings["secret_id_num_uses"]),
            metadata=parse_metadata(fields.text("metadata")),
            cidr_list=fields.get("cidr_list", []),
            token_bound_cidrs=fields.get("token_bound_cidrs", []),
        )
        if made.num_uses < 0:
            raise refused("num_uses cannot be negative")
        check_cidrs("CIDR blocks", made.cidr_list)
        check_cidrs("token CIDR blocks", made.token_bound_cidrs)
        if made.secret_id in role.secret_ids:
            raise failed("failed to store secret_id: SecretID is already registered")
        role.secret_ids[made.secret_id] = made
        return Reply(
            data={
                "secret_id": made.secret_id,
                "secret_id_accessor": made.accessor,
                "secret_id_num_uses": made.num_uses,
                "secret_id_ttl": made.ttl,
            }
        )

    def _list_secret_ids(self, _request: Request, fields: Fields) -> Reply | None:
        role = self._role(fields)
        return None if role is None else keys([one.accessor for one in role.secret_ids.values()])

    def _on_secret_id(self, request: Request, fields: Fields) -> Reply | None:
        role = self._role(fields)
        if role is None:
            raise ApiError(404, f'role "{fields.text("name")}" does not exist')
        name = "secret_id_accessor" if fields.get("by_accessor") else "secret_id"
        wanted = fields.text(name)
        if not wanted:
            raise refused(f"missing {name}")
        found = next((one for one in role.secret_ids.values() if wanted in (one.secret_id, one.accessor)), None)
        if fields.text("action") == "lookup" and request.operation == "update":
            return None if found is None else Reply(data=found.show())
        if found is not None:
            del role.secret_ids[found.secret_id]
        return None
