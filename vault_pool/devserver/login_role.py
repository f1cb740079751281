"""
What the roles of all auth methods say about the tokens that their logins give.

vault: ``sdk/helper/tokenutil``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from vault_pool.devserver.errors import BackendError, ConnectionDropped, refused
from vault_pool.devserver.field_types import ANY, FLAG, NUMBER, SECONDS, STRINGS
from vault_pool.devserver.framework import Fields
from vault_pool.devserver.token_entry import Auth
from vault_pool.devserver.ttl import Wish

TOKEN_FIELDS: Final = {
    "token_bound_cidrs": STRINGS,
    "token_explicit_max_ttl": SECONDS,
    "token_max_ttl": SECONDS,
    "token_no_default_policy": FLAG,
    "token_num_uses": NUMBER,
    "token_period": SECONDS,
    "token_policies": STRINGS,
    "token_strictly_bind_ip": FLAG,
    "token_ttl": SECONDS,
    "token_type": ANY,
}
# The names of before Vault 1.2, which still work.
OLD_FIELDS: Final = {
    "bound_cidrs": STRINGS,
    "max_ttl": SECONDS,
    "num_uses": NUMBER,
    "period": SECONDS,
    "policies": STRINGS,
    "ttl": SECONDS,
}
_TOKEN_TYPES: Final = ("", "default", "service", "batch", "default-service", "default-batch")


def new_token_settings(*, openbao: bool) -> dict[str, Any]:
    """
    Return the settings of a role for which nothing was said.
    """
    settings: dict[str, Any] = {
        "token_bound_cidrs": [],
        "token_explicit_max_ttl": 0,
        "token_max_ttl": 0,
        "token_no_default_policy": False,
        "token_num_uses": 0,
        "token_period": 0,
        "token_policies": [],
        "token_ttl": 0,
        "token_type": "default",
    }
    return settings | {"token_strictly_bind_ip": False} if openbao else settings


def token_settings(known: Mapping[str, Any] | None, fields: Fields, *, openbao: bool) -> dict[str, Any]:
    """
    Return the settings for tokens that *known* has, or a new role's, changed by what was sent; refuse what cannot be.
    """
    new = new_token_settings(openbao=openbao)
    settings = {**new, **{name: value for name, value in (known or {}).items() if name in new}}
    for old, value in fields.within(tuple(OLD_FIELDS)).items():
        settings[f"token_{old}"] = value
    settings |= fields.within(tuple(new))
    check_token_settings(settings)
    if 0 < settings["token_max_ttl"] < settings["token_ttl"]:
        raise refused("'token_ttl' cannot be greater than 'token_max_ttl'")
    return settings


def check_token_settings(settings: Mapping[str, Any]) -> None:
    """
    Refuse settings that cannot be.
    """
    if not isinstance(settings["token_type"], str):
        raise ConnectionDropped
    if settings["token_type"] not in _TOKEN_TYPES:
        raise refused(f"invalid 'token_type' value \"{settings['token_type']}\"")
    if settings["token_num_uses"] < 0:
        raise refused("'token_num_uses' cannot be negative")
    for one in settings["token_bound_cidrs"]:
        if not is_network(one):
            text = (
                f'error parsing address "{one}": Unable to convert "{one}" to an IPv4 or IPv6 address, or a UNIX Socket'
            )
            raise refused(text)


def token_wish(settings: Mapping[str, Any]) -> Wish:
    """
    Return the TTLs that a role wants for its tokens.
    """
    return Wish(
        ttl=settings["token_ttl"],
        max_ttl=settings["token_max_ttl"],
        period=settings["token_period"],
        explicit_max_ttl=settings["token_explicit_max_ttl"],
    )


def grant(
    settings: Mapping[str, Any],
    *,
    metadata: Mapping[str, str],
    entity_id: str,
    internal: Mapping[str, Any],
    display_name: str = "",
    policies: Iterable[str] = (),
    cidrs: Sequence[str] | None = None,
) -> Auth:
    """
    Return what a login grants: the role's settings, and *policies* besides; *cidrs* None: the role's.
    """
    no_default = settings["token_no_default_policy"]
    return Auth(
        policies=sorted({*settings["token_policies"], *policies} | (set() if no_default else {"default"})),
        display_name=display_name,
        metadata=metadata,
        wish=token_wish(settings),
        num_uses=settings["token_num_uses"],
        token_type="batch" if settings["token_type"] == "batch" else "service",  # noqa: S105 - a kind, no password
        entity_id=entity_id,
        bound_cidrs=settings["token_bound_cidrs"] if cidrs is None else cidrs,
        internal=internal,
    )


def check_policies(wanted: Iterable[str], auth: Auth) -> None:
    """
    Refuse to renew a token whose role has other policies by now. vault: ``policyutil.EquivalentPolicies``.
    """
    if set(wanted) - {"default"} != set(auth.policies) - {"default"}:
        raise BackendError("policies have changed, not renewing")


def is_network(text: str) -> bool:
    """
    Tell whether *text* is an address or a network.
    """
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
