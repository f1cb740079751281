"""
`auth/token`: making, showing, renewing and revoking tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import ApiError, BackendError, ConnectionDropped, failed, refused, wrapped
from vault_pool.devserver.field_types import ANY, FLAG, LIST, NUMBER, PAIRS, SECONDS, TEXT
from vault_pool.devserver.framework import Fields, Reply, Request, Route, keys
from vault_pool.devserver.token_entry import Auth, TokenEntry
from vault_pool.devserver.ttl import Wish
from vault_pool.devserver.values import BadDurationError, parse_duration

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_CREATE_FIELDS: Final = {
    "id": TEXT,
    "policies": LIST,
    "meta": PAIRS,
    "no_parent": FLAG,
    "no_default_policy": FLAG,
    "renewable": FLAG,
    "ttl": TEXT,
    "lease": TEXT,
    "explicit_max_ttl": TEXT,
    "period": TEXT,
    "type": TEXT,
    "display_name": TEXT,
    "num_uses": NUMBER,
    "entity_alias": TEXT,
}
_WEAK_ID: Final = (
    "Supplying a custom ID for the token uses the weaker SHA1 hashing instead of the more secure SHA2-256 HMAC for "
    "token obfuscation. SHA1 hashed tokens on the wire leads to less secure lookups."
)


class TokenEngine:
    """
    The auth method that is always there.
    """

    kind: Final = "token"
    open_paths: Final[Sequence[str]] = ()
    sudo_paths: Final[Sequence[str]] = ("revoke-orphan", "revoke-orphan/*", "accessors/", "create-orphan")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tokens = core.tokens
        token = {"token": ANY}
        renewal = {"token": ANY, "increment": SECONDS}
        self.routes: Sequence[Route] = (
            Route(pattern="create", fields=_CREATE_FIELDS, operations={"update": self._create}),
            Route(pattern="create-orphan", fields=_CREATE_FIELDS, operations={"update": self._create_orphan}),
            Route(pattern="lookup-self", operations={"read": self._lookup_self, "update": self._lookup_self}),
            Route(pattern="lookup", fields=token, operations={"read": self._lookup, "update": self._lookup}),
            Route(pattern="lookup-accessor", fields={"accessor": TEXT}, operations={"update": self._lookup_accessor}),
            Route(pattern="renew-self", fields=renewal, operations={"update": self._renew_self}),
            Route(pattern="renew", fields=renewal, operations={"update": self._renew}),
            Route(
                pattern="renew-accessor",
                fields={"accessor": TEXT, "increment": SECONDS},
                operations={"update": self._renew_accessor},
            ),
            Route(pattern="revoke-self", operations={"update": self._revoke_self}),
            Route(pattern="revoke", fields=token, operations={"update": self._revoke}),
            Route(pattern="revoke-orphan", fields=token, operations={"update": self._revoke_orphan}),
            Route(pattern="revoke-accessor", fields={"accessor": TEXT}, operations={"update": self._revoke_accessor}),
            Route(pattern="accessors/?", operations={"list": lambda _request, _fields: keys(self._tokens.accessors())}),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """

    def _create(self, request: Request, fields: Fields) -> Reply:
        return self._make(request, fields, orphan=fields.get("no_parent", False))

    def _create_orphan(self, request: Request, fields: Fields) -> Reply:
        return self._make(request, fields, orphan=True)

    def _make(self, request: Request, fields: Fields, *, orphan: bool) -> Reply:
        """
        Make a token. vault: ``handleCreateCommon``.
        """
        parent = request.entry
        assert parent is not None
        if parent.batch:
            raise refused("batch tokens cannot create more tokens")
        if parent.num_uses != 0:
            raise refused("restricted use token cannot generate child tokens")
        privileged = self._core.acl(parent).allows("sudo", f"auth/token/{request.path}", {}, sudo=True)
        if orphan and not privileged:
            raise refused("root or sudo privileges required to create orphan token")
        warnings = self._check(fields, privileged=privileged)
        auth = Auth(
            policies=self._policies(fields, parent, privileged=privileged),
            display_name=_display_name(fields.text("display_name")),
            metadata=None if request.data.get("meta") is None else fields.get("meta"),
            wish=_wish(fields),
            renewable=fields.get("renewable", True),
            num_uses=fields.get("num_uses", 0),
            token_type="batch" if fields.text("type") == "batch" else "service",
            orphan=orphan,
        )
        if auth.token_type == "batch" and "root" in auth.policies:  # noqa: S105 - a kind, no password
            raise refused("batch tokens cannot be root tokens")
        for name in auth.policies:
            if name not in self._core.policies:
                warnings.append(f'Policy "{name}" does not exist')
        limits = self._core.limits("auth/token/")
        made, more = self._tokens.issue(
            auth,
            f"auth/token/{request.path}",
            limits,
            parent=parent.id,
            token_id=fields.text("id"),
            namespace=self._core.namespaces.of(request.mount_point),
        )
        return Reply(auth=made, warnings=warnings + more)

    def _check(self, fields: Fields, *, privileged: bool) -> list[str]:
        if fields.get("num_uses", 0) < 0:
            raise refused("number of uses cannot be negative")
        if fields.text("type") not in {"", "service", "batch"}:
            raise refused("invalid 'token_type' value")
        if fields.text("type") == "batch":
            for name in ("num_uses", "explicit_max_ttl", "period", "id"):
                if fields.get(name):
                    raise refused(f'batch tokens cannot have "{name}" set')
        if fields.text("entity_alias"):
            raise refused("'entity_alias' is only allowed in combination with token role")
        if fields.get("period") and not privileged:
            raise refused("root or sudo privileges required to create periodic token")
        if not fields.text("id"):
            return []
        if not privileged:
            raise refused("root or sudo privileges required to specify token id")
        self._tokens.check_custom_id(fields.text("id"))
        return [_WEAK_ID]

    def _policies(self, fields: Fields, parent: TokenEntry, *, privileged: bool) -> list[str]:
        wanted = {name.strip().lower() for name in fields.get("policies", [])} or set(parent.policies)
        if not privileged and not wanted <= set(parent.policies):
            raise refused("child policies must be subset of parent")
        if "root" in wanted and "root" not in parent.policies:
            raise refused("root tokens may not be created without parent token being root")
        if "root" in wanted:
            return ["root"]
        return sorted(wanted - {"default"} if fields.get("no_default_policy") else wanted | {"default"})

    def _lookup_self(self, request: Request, _fields: Fields) -> Reply:
        assert request.entry is not None
        return Reply(data=self._tokens.show(request.entry))

    def _lookup(self, request: Request, fields: Fields) -> Reply:
        entry = self._tokens.lookup(self._named(fields) or request.token)
        if entry is None:
            raise ApiError(403, "bad token")
        return Reply(data=self._tokens.show(entry))

    def _lookup_accessor(self, _request: Request, fields: Fields) -> Reply:
        return Reply(data=self._tokens.show(self._by_accessor(fields), hide_id=True))

    def _by_accessor(self, fields: Fields) -> TokenEntry:
        if not fields.text("accessor"):
            raise refused(wrapped("missing accessor"))
        entry = self._tokens.by_accessor(fields.text("accessor"))
        if entry is None:
            raise refused(wrapped("invalid accessor"))
        return entry

    def _renew_self(self, request: Request, fields: Fields) -> Reply | None:
        assert request.entry is not None
        return self._renewed(request, self._tokens.lookup(request.entry.id), fields)

    def _named(self, fields: Fields, *, needed: bool = False) -> str:
        """
        Return the token that the body names. vault: ``handleRequest`` looks at it before any field is converted.
        """
        token = fields.get("token", "")
        if token is None or (not isinstance(token, str) and self._core.flavor.openbao):
            raise ApiError(403, "invalid token")
        if not isinstance(token, str):
            raise ConnectionDropped
        if needed and not token:
            raise refused("missing token ID")
        return token

    def _renew(self, request: Request, fields: Fields) -> Reply | None:
        return self._renewed(request, self._tokens.lookup(self._named(fields, needed=True)), fields)

    def _renew_accessor(self, request: Request, fields: Fields) -> Reply | None:
        return self._renewed(request, self._by_accessor(fields), fields)

    def _renewed(self, request: Request, entry: TokenEntry | None, fields: Fields) -> Reply | None:
        if entry is None:
            raise refused("token not found")
        lease = self._core.leases.get(entry.lease_id)
        path, wish, start = entry.namespace + entry.path, Wish(), float(entry.creation_time)
        if lease is not None and lease.auth is not None:
            start = lease.issue_time
            try:
                renewed = self._core.renewed_wish(lease.auth, path, request)
            except BackendError as error:
                raise failed(f"failed to renew entry: {error}") from None
            if renewed is None:
                return None
            wish = renewed
        limits = self._core.renewal_limits(path, start)
        auth, warnings = self._tokens.renew(entry, fields.get("increment", 0), wish, limits)
        return Reply(auth=auth, warnings=warnings)

    def _revoke_self(self, request: Request, _fields: Fields) -> None:
        assert request.entry is not None
        self._tokens.revoke(request.entry)

    def _revoke(self, _request: Request, fields: Fields) -> None:
        entry = self._tokens.lookup(self._named(fields, needed=True))
        if entry is not None:
            self._tokens.revoke(entry)

    def _revoke_orphan(self, _request: Request, fields: Fields) -> None:
        entry = self._tokens.lookup(self._named(fields, needed=True))
        if entry is None:
            raise refused("token to revoke not found")
        self._tokens.revoke(entry, orphan_children=True)

    def _revoke_accessor(self, _request: Request, fields: Fields) -> Reply | None:
        if not fields.text("accessor"):
            raise refused(wrapped("missing accessor"))
        entry = self._tokens.by_accessor(fields.text("accessor"))
        if entry is None:
            return Reply(warnings=["No token found with this accessor"])
        self._tokens.revoke(entry)
        return None


def _display_name(wanted: str) -> str:
    return re.sub(r"[^a-zA-Z0-9-]", "-", f"token-{wanted}").removesuffix("-") if wanted else "token"


def _wish(fields: Fields) -> Wish:
    times: Mapping[str, Any] = fields.within(("ttl", "lease", "explicit_max_ttl", "period"))
    try:
        seconds = {name: parse_duration(value) for name, value in times.items()}
    except BadDurationError as error:
        raise refused(str(error)) from None
    for name, value in seconds.items():
        if value < 0:
            raise refused(f"{name} must be positive")
    return Wish(
        ttl=seconds.get("ttl", seconds.get("lease", 0)),
        explicit_max_ttl=seconds.get("explicit_max_ttl", 0),
        period=seconds.get("period", 0),
    )
