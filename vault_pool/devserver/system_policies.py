"""
`sys/policies` and `sys/capabilities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vault_pool.devserver.errors import failed, refused, wrapped
from vault_pool.devserver.field_types import ANY, STRINGS, TEXT
from vault_pool.devserver.framework import Fields, Reply, Request, Route, keys
from vault_pool.devserver.hcl import HclError
from vault_pool.devserver.passwords import parse_password_policy
from vault_pool.devserver.policies import parse_policy
from vault_pool.devserver.token_entry import TokenEntry

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core


class PolicyPaths:
    """
    The paths of policies, access and password ones, and of what a token may do.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        policy = {"policy": TEXT, "rules": TEXT}
        paths = {"path": STRINGS, "paths": STRINGS, "token": ANY}
        one = {"read": self._read, "update": self._write, "delete": self._delete}
        self.routes: Sequence[Route] = (
            Route(pattern="policies/acl/?", operations={"list": self._list}),
            Route(pattern="policies/acl/(?P<name>.+)", fields=policy, operations=one),
            Route(pattern="(?P<old>policy)/?", operations={"read": self._list, "list": self._list}),
            Route(pattern="(?P<old>policy)/(?P<name>.+)", fields=policy, operations=one),
            Route(
                pattern="policies/password/?",
                operations={"list": lambda _request, _fields: keys(list(core.password_policies))},
            ),
            Route(
                pattern="policies/password/(?P<name>.+)",
                fields=policy,
                operations={
                    "read": self._read_password,
                    "update": self._write_password,
                    "delete": self._delete_password,
                },
            ),
            Route(pattern="capabilities-self", fields=paths, operations={"update": self._capabilities_self}),
            Route(pattern="capabilities", fields=paths, operations={"update": self._capabilities}),
            Route(
                pattern="capabilities-accessor",
                fields={**paths, "accessor": TEXT},
                operations={"update": self._capabilities_accessor},
            ),
        )

    def _list(self, _request: Request, fields: Fields) -> Reply:
        # vault: root comes last, it is no policy that is stored.
        names = [*sorted(self._core.policies.keys() - {"root"}), "root"]
        old = {"policies": names} if fields.get("old") else {}
        return Reply(data={"keys": names, **old}, flat=bool(old))

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        policy = self._core.policies.get(fields.text("name").lower())
        if policy is None:
            return None
        if fields.get("old"):
            shown = policy.show(openbao=self._core.flavor.openbao)
            shown["rules"] = shown.pop("policy")
            return Reply(data=shown, flat=True)
        return Reply(data=policy.show(openbao=self._core.flavor.openbao))

    def _write(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name").lower()
        text = fields.text("policy") or fields.text("rules")
        if not text:
            raise refused("'policy' parameter not supplied or empty")
        try:
            policy = parse_policy(name, text, modified=self._core.clock.now())
        except HclError as error:
            raise refused(f"failed to parse policy: {error}") from None
        if name == "root":
            raise refused(f'cannot update "{name}" policy')
        self._core.policies[name] = policy

    def _delete(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name").lower()
        if name in {"root", "default"}:
            raise refused('cannot delete "root" policy' if name == "root" else "cannot delete default policy")
        self._core.policies.pop(name, None)

    def _read_password(self, _request: Request, fields: Fields) -> Reply | None:
        text = self._core.password_policies.get(fields.text("name"))
        return None if text is None else Reply(data={"policy": text})

    def _write_password(self, _request: Request, fields: Fields) -> None:
        parse_password_policy(fields.text("policy"))
        self._core.password_policies[fields.text("name")] = fields.text("policy")

    def _delete_password(self, _request: Request, fields: Fields) -> None:
        self._core.password_policies.pop(fields.text("name"), None)

    def _capabilities_self(self, request: Request, fields: Fields) -> Reply:
        assert request.entry is not None
        return self._shown(request.entry, fields)

    def _capabilities(self, _request: Request, fields: Fields) -> Reply:
        token = fields.get("token")
        if not isinstance(token, str) or not token:
            raise failed("no token found")
        entry = self._core.tokens.lookup(token)
        if entry is None:
            raise refused(wrapped("invalid token"))
        return self._shown(entry, fields)

    def _capabilities_accessor(self, _request: Request, fields: Fields) -> Reply:
        entry = self._core.tokens.by_accessor(fields.text("accessor"))
        if entry is None:
            raise refused(wrapped("invalid accessor"))
        return self._shown(entry, fields)

    def _shown(self, entry: TokenEntry, fields: Fields) -> Reply:
        paths = fields.get("paths") or fields.get("path") or []
        if not paths:
            raise refused("paths must be supplied")
        acl = self._core.acl(entry)
        shown: dict[str, Any] = {path: acl.capabilities(path) for path in paths}
        # vault: a single path's answer stands under "capabilities" as well.
        return Reply(data=shown | ({"capabilities": shown[paths[0]]} if len(paths) == 1 else {}), flat=True)
