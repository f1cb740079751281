"""
`auth/jwt`: whoever has a token that a known key signed logs in with it.

vault: ``builtin/credential/jwt``. Keys are configured here; they are not fetched (no `jwks_url`, no OIDC).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import BackendError, denied, refused
from vault_pool.devserver.field_types import FLAG, LIST, MAP, PAIRS, SECONDS, STRINGS, TEXT
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route, keys
from vault_pool.devserver.jws import ALGORITHMS, Expected, PublicKey, audiences, load_key, validate
from vault_pool.devserver.login_role import OLD_FIELDS, TOKEN_FIELDS, grant, token_settings, token_wish
from vault_pool.devserver.token_entry import Auth, in_networks
from vault_pool.devserver.ttl import Wish

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_CONFIG_FIELDS: Final = {
    "jwt_validation_pubkeys": STRINGS,
    "jwt_supported_algs": STRINGS,
    "bound_issuer": TEXT,
    "default_role": TEXT,
    "jwks_url": TEXT,
    "oidc_discovery_url": TEXT,
}
_ROLE_FIELDS: Final = {
    "role_type": TEXT,
    "bound_audiences": STRINGS,
    "bound_subject": TEXT,
    "bound_claims": MAP,
    "bound_claims_type": TEXT,
    "claim_mappings": PAIRS,
    "user_claim": TEXT,
    "user_claim_json_pointer": FLAG,
    "groups_claim": TEXT,
    "expiration_leeway": SECONDS,
    "not_before_leeway": SECONDS,
    "clock_skew_leeway": SECONDS,
    "allowed_redirect_uris": LIST,
    "oidc_scopes": LIST,
    "verbose_oidc_logging": FLAG,
}
_NEW_ROLE: Final[Mapping[str, Any]] = {
    "role_type": "oidc",
    "bound_audiences": [],
    "bound_subject": "",
    "bound_claims": None,
    "bound_claims_type": "string",
    "claim_mappings": None,
    "user_claim": "",
    "user_claim_json_pointer": False,
    "groups_claim": "",
    "expiration_leeway": 0,
    "not_before_leeway": 0,
    "clock_skew_leeway": 0,
    "allowed_redirect_uris": [],
    "oidc_scopes": [],
    "verbose_oidc_logging": False,
}


class JwtEngine:
    """
    The auth method. Thread-safe.
    """

    kind: Final = "jwt"
    open_paths: Final[Sequence[str]] = ("login",)
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._config: dict[str, Any] | None = None
        self._keys: list[PublicKey] = []
        self._roles: dict[str, dict[str, Any]] = {}
        self.routes: Sequence[Route] = (
            Route(pattern="login", fields={"role": TEXT, "jwt": TEXT}, operations={"update": self._login}),
            Route(
                pattern="config",
                fields=_CONFIG_FIELDS,
                operations={"read": self._read_config, "update": self._write_config},
            ),
            Route(pattern="role/?", operations={"list": lambda _request, _fields: keys(list(self._roles))}),
            Route(
                pattern=f"role/{NAME}",
                fields={**TOKEN_FIELDS, **OLD_FIELDS, **_ROLE_FIELDS},
                operations={"read": self._read, "update": self._write, "delete": self._delete},
                exists=lambda _request, fields: fields.text("name") in self._roles,
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
        role = self._roles.get(auth.internal["role"])
        if role is None:
            raise BackendError(f"role {auth.internal['role']} does not exist during renewal")
        return token_wish(role)

    def _read_config(self, _request: Request, _fields: Fields) -> Reply | None:
        return None if self._config is None else Reply(data=dict(self._config))

    def _write_config(self, _request: Request, fields: Fields) -> None:
        if fields.text("jwks_url") or fields.text("oidc_discovery_url"):
            raise refused("this development server fetches no keys: configure jwt_validation_pubkeys")
        pems = fields.get("jwt_validation_pubkeys", [])
        if not pems:
            raise refused("exactly one of 'jwt_validation_pubkeys', 'jwks_url' or 'oidc_discovery_url' must be set")
        try:
            known = [load_key(pem) for pem in pems]
        except ValueError as error:
            raise refused(f"error parsing public key: {error}") from None
        algorithms = fields.get("jwt_supported_algs", [])
        for one in algorithms:
            if one not in ALGORITHMS:
                raise refused(f'invalid jwt_supported_algs: unsupported signing algorithm "{one}"')
        self._keys = known
        self._config = {
            "jwt_validation_pubkeys": pems,
            "jwt_supported_algs": algorithms,
            "bound_issuer": fields.text("bound_issuer"),
            "default_role": fields.text("default_role"),
            "jwks_url": "",
            "oidc_discovery_url": "",
        }

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        role = self._roles.get(fields.text("name"))
        return None if role is None else Reply(data=dict(sorted(role.items())))

    def _write(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name")
        known = self._roles.get(name)
        role = {**_NEW_ROLE, **(known or {}), **fields.within(tuple(_ROLE_FIELDS))}
        if role["role_type"] not in ("jwt", "oidc"):
            raise refused(f"invalid 'role_type': {role['role_type']}")
        role |= token_settings(known, fields, openbao=self._core.flavor.openbao)
        if role["bound_claims_type"] not in ("string", "glob"):
            raise refused(f"invalid 'bound_claims_type': {role['bound_claims_type']}")
        if not role["user_claim"]:
            raise refused("a user claim must be defined on the role")
        if role["role_type"] == "jwt" and not any(
            role[one] for one in ("bound_audiences", "bound_subject", "bound_claims", "token_bound_cidrs")
        ):
            raise refused("must have at least one bound constraint when creating/updating a role")
        self._roles[name] = role

    def _delete(self, _request: Request, fields: Fields) -> None:
        self._roles.pop(fields.text("name"), None)

    def _login(self, request: Request, fields: Fields) -> Reply:
        config = self._config
        if config is None:
            raise refused("could not load configuration")
        name = (fields.text("role") or config["default_role"]).lower()
        if not name:
            raise refused("missing role")
        role = self._roles.get(name)
        if role is None:
            raise refused(f'role "{name}" could not be found')
        if role["role_type"] == "oidc":
            raise refused("role with oidc role_type is not allowed")
        if not fields.text("jwt"):
            raise refused("missing token")
        if not in_networks(request.remote_address, role["token_bound_cidrs"]):
            raise denied()
        claims = self._validated(fields.text("jwt"), config, role)
        user = _claim(claims, role["user_claim"], pointer=role["user_claim_json_pointer"])
        auth = grant(
            role,
            display_name=user,
            metadata={**_mapped(claims, role["claim_mappings"] or {}), "role": name},
            entity_id=self._core.logins.entity_id(request.mount_point, user),
            internal={"role": name},
        )
        return Reply(auth=auth)

    def _validated(self, token: str, config: Mapping[str, Any], role: Mapping[str, Any]) -> dict[str, Any]:
        expected = Expected(
            issuer=config["bound_issuer"],
            subject=role["bound_subject"],
            audiences=role["bound_audiences"],
            algorithms=config["jwt_supported_algs"] or ALGORITHMS,
            expiration_leeway=role["expiration_leeway"],
            not_before_leeway=role["not_before_leeway"],
            clock_skew_leeway=role["clock_skew_leeway"],
        )
        try:
            claims = validate(token, self._keys, expected, self._core.clock.now())
        except ValueError as error:
            raise refused(f"error validating token: {error}") from None
        if audiences(claims) and not role["bound_audiences"]:
            raise refused("audience claim found in JWT but no audiences bound to the role")
        for claim, wanted in (role["bound_claims"] or {}).items():
            _check_claim(claims, claim, wanted, glob=role["bound_claims_type"] == "glob")
        return claims


def _found(claims: Mapping[str, Any], name: str) -> Any:
    """
    Return the claim *name*, or the one that a JSON pointer leads to.
    """
    found: Any = claims
    for part in name.split("/")[1:] if name.startswith("/") else [name]:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _claim(claims: Mapping[str, Any], name: str, *, pointer: bool) -> str:
    found = _found(claims, name) if pointer else claims.get(name)
    if found is None:
        raise refused(f'claim "{name}" not found in token')
    if not isinstance(found, str):
        raise refused(f'claim "{name}" could not be converted to string')
    return found


def _mapped(claims: Mapping[str, Any], mappings: Mapping[str, str]) -> dict[str, str]:
    """
    Return the claims that become metadata, by their new names.
    """
    mapped = {}
    for source, target in mappings.items():
        value = _found(claims, source)
        if value is not None and not isinstance(value, str):
            raise refused(f"error converting claim '{source}' to string")
        if value is not None:
            mapped[target] = value
    return mapped


def _check_claim(claims: Mapping[str, Any], name: str, wanted: Any, *, glob: bool) -> None:
    found = _found(claims, name)
    if found is None:
        raise refused(f'error validating claims: claim "{name}" is missing')
    has, wants = (one if isinstance(one, list) else [one] for one in (found, wanted))
    if not any(fnmatch.fnmatchcase(str(one), str(want)) if glob else one == want for one in has for want in wants):
        text = f'claim "{name}" does not match any associated bound claim values'
        raise refused(f"error validating claims: {text}")
