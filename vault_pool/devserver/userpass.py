"""
`auth/userpass`: people log in with a name and a password.

vault: ``builtin/credential/userpass``.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import ApiError, InvalidCredentials, denied, refused
from vault_pool.devserver.field_types import STRINGS, TEXT
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route, keys
from vault_pool.devserver.lockout import Lockout
from vault_pool.devserver.login_role import OLD_FIELDS, TOKEN_FIELDS, check_policies, grant, token_settings, token_wish
from vault_pool.devserver.token_entry import Auth, in_networks
from vault_pool.devserver.ttl import Wish

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_INVALID: Final = "invalid username or password"


class UserPassEngine:
    """
    The auth method; names count in lower case. Thread-safe.
    """

    kind: Final = "userpass"
    open_paths: Final[Sequence[str]] = ("login/*",)
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._users: dict[str, dict[str, Any]] = {}
        self._passwords: dict[str, str] = {}
        self.lockout = Lockout(core.clock)
        fields = {**TOKEN_FIELDS, **OLD_FIELDS, "password": TEXT}
        self.routes: Sequence[Route] = (
            Route(pattern=f"login/{NAME}", fields={"password": TEXT}, operations={"update": self._login}),
            Route(pattern="users/?", operations={"list": lambda _request, _fields: keys(list(self._users))}),
            Route(
                pattern=f"users/{NAME}",
                fields=fields,
                operations={"read": self._read, "update": self._write, "delete": self._delete},
                exists=lambda _request, fields: _name(fields) in self._users,
            ),
            Route(pattern=f"users/{NAME}/password", fields={"password": TEXT}, operations={"update": self._change}),
            Route(
                pattern=f"users/{NAME}/policies",
                fields={"token_policies": STRINGS, "policies": STRINGS},
                operations={"update": self._change},
            ),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """

    def renewed_wish(self, auth: Auth, _request: Request) -> Wish | None:
        """
        Return what the user's tokens get now; None: the user is gone, nothing is renewed.
        """
        user = self._users.get(auth.internal["username"])
        if user is None:
            return None
        check_policies(user["token_policies"], auth)
        return token_wish(user)

    def _login(self, request: Request, fields: Fields) -> Reply:
        name, password = _name(fields), fields.text("password")
        with self.lockout.guarding(name, self._core.mounts.rules(request.mount_point)):
            if not password:
                raise ApiError(500, "missing password")
            user = self._users.get(name)
            if user is None:
                raise refused(_INVALID)
            if not hmac.compare_digest(password.encode(), self._passwords[name].encode()):
                raise InvalidCredentials(400, _INVALID)
            if not in_networks(request.remote_address, user["token_bound_cidrs"]):
                raise denied()
        auth = grant(
            user,
            display_name=name,
            metadata={"username": name},
            entity_id=self._core.logins.entity_id(request.mount_point, name),
            internal={"username": name},
        )
        return Reply(auth=auth)

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        user: Mapping[str, Any] | None = self._users.get(_name(fields))
        return None if user is None else Reply(data=dict(sorted(user.items())))

    def _write(self, _request: Request, fields: Fields) -> None:
        name = _name(fields)
        if name not in self._users and not fields.text("password"):
            raise refused("missing password")
        with self._core.lock:
            settings = token_settings(self._users.get(name), fields, openbao=self._core.flavor.openbao)
            self._passwords[name] = fields.get("password", self._passwords.get(name))
            self._users[name] = settings

    def _change(self, request: Request, fields: Fields) -> None:
        """
        Set a password or policies alone.
        """
        if _name(fields) not in self._users:
            raise refused("username does not exist")
        self._write(request, fields)

    def _delete(self, _request: Request, fields: Fields) -> None:
        with self._core.lock:
            self._users.pop(_name(fields), None)
            self._passwords.pop(_name(fields), None)


def _name(fields: Fields) -> str:
    return fields.text("name").lower()
