"""
`identity/mfa`: which logins need a second factor. That factor itself cannot be given here: such a login has no token.

vault: ``vault/login_mfa.go``. Of `identity/` nothing else is imitated.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import refused
from vault_pool.devserver.field_types import STRINGS
from vault_pool.devserver.framework import Fields, Reply, Request, Route, keys

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core
    from vault_pool.devserver.mounts import Mount

_ENFORCEMENT_FIELDS: Final = {
    "mfa_method_ids": STRINGS,
    "auth_method_accessors": STRINGS,
    "auth_method_types": STRINGS,
    "identity_entity_ids": STRINGS,
    "identity_group_ids": STRINGS,
}
_METHOD: Final = "mfa/method/(?P<kind>totp|duo|okta|pingid)"


class IdentityEngine:
    """
    Methods of second factors, and the logins that they are enforced on. Thread-safe.
    """

    kind: Final = "identity"
    open_paths: Final[Sequence[str]] = ()
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._methods: dict[str, dict[str, Any]] = {}
        self._enforcements: dict[str, dict[str, Any]] = {}
        self.routes: Sequence[Route] = (
            Route(pattern=f"{_METHOD}/?", operations={"list": self._list, "update": self._write}, any_field=True),
            Route(
                pattern=f"{_METHOD}/(?P<id>.+)",
                operations={"read": self._read, "update": self._write, "delete": self._delete},
                any_field=True,
            ),
            Route(
                pattern="mfa/login-enforcement/?",
                operations={"list": lambda _request, _fields: keys(list(self._enforcements))},
            ),
            Route(
                pattern="mfa/login-enforcement/(?P<name>.+)",
                fields=_ENFORCEMENT_FIELDS,
                operations={"read": self._read_enforcement, "update": self._enforce, "delete": self._lift},
            ),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """

    def requirement(self, mount: Mount, entity_id: str) -> Mapping[str, Any] | None:
        """
        Return what a login at *mount* has to satisfy besides; None: nothing.
        """
        with self._core.lock:
            constraints = {
                name: {"any": [self._show(one) for one in rule["mfa_method_ids"] if one in self._methods]}
                for name, rule in self._enforcements.items()
                if mount.accessor in rule["auth_method_accessors"]
                or mount.engine.kind in rule["auth_method_types"]
                or entity_id in rule["identity_entity_ids"]
            }
        return requirement(constraints) if constraints else None

    def _show(self, method_id: str) -> dict[str, Any]:
        kind = self._methods[method_id]["type"]
        return {"type": kind, "id": method_id, "uses_passcode": kind == "totp"}

    def _list(self, _request: Request, fields: Fields) -> Reply | None:
        return keys([name for name, one in self._methods.items() if one["type"] == fields.text("kind")])

    def _write(self, request: Request, fields: Fields) -> Reply | None:
        method_id = fields.text("id") or str(uuid.uuid4())
        if fields.text("id") and method_id not in self._methods:
            raise refused(f"failed to find the method ID under MFA type {fields.text('kind')}.")
        self._methods[method_id] = {**request.data, "type": fields.text("kind"), "id": method_id}
        return None if fields.text("id") else Reply(data={"method_id": method_id})

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        found = self._methods.get(fields.text("id"))
        return None if found is None else Reply(data=dict(found))

    def _delete(self, _request: Request, fields: Fields) -> None:
        self._methods.pop(fields.text("id"), None)

    def _read_enforcement(self, _request: Request, fields: Fields) -> Reply | None:
        found = self._enforcements.get(fields.text("name"))
        return None if found is None else Reply(data={**found, "name": fields.text("name")})

    def _enforce(self, _request: Request, fields: Fields) -> None:
        rule = {name: fields.get(name, []) for name in _ENFORCEMENT_FIELDS}
        if not rule["mfa_method_ids"]:
            raise refused("missing method IDs")
        for method_id in rule["mfa_method_ids"]:
            if method_id not in self._methods:
                raise refused("one of the provided method ids doesn't exist")
        if not any(rule[name] for name in _ENFORCEMENT_FIELDS if name != "mfa_method_ids"):
            raise refused(
                "One of auth_method_accessors, auth_method_types, identity_group_ids, identity_entity_ids must be "
                "specified"
            )
        with self._core.lock:
            self._enforcements[fields.text("name")] = rule

    def _lift(self, _request: Request, fields: Fields) -> None:
        with self._core.lock:
            self._enforcements.pop(fields.text("name"), None)


def requirement(constraints: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """
    Return the `mfa_requirement` of a login; without *constraints* one of a method that nobody configured.
    """
    method = {"type": "totp", "id": str(uuid.uuid4()), "uses_passcode": True}
    return {"mfa_request_id": str(uuid.uuid4()), "mfa_constraints": constraints or {"development": {"any": [method]}}}
