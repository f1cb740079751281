"""
What a token is, and what a login grants.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vault_pool.devserver.ttl import Wish

# vault: ``tokenRevocationPending``: the last use was spent, the token dies with the end of that request.
LAST_USE_SPENT: Final = -1


@dataclass(slots=True, kw_only=True, eq=False)
class TokenEntry:
    """
    A token as the store keeps it; TTLs in seconds, *creation_time* in whole seconds since 1970.

    It is good for the namespace with the path *namespace*, and those in it.
    """

    id: str = field(repr=False)
    accessor: str
    path: str
    policies: Sequence[str]
    creation_time: int
    ttl: int
    namespace: str = ""
    display_name: str = "token"
    meta: Mapping[str, str] | None = None
    num_uses: int = 0
    explicit_max_ttl: int = 0
    period: int = 0
    type: str = "service"
    orphan: bool = False
    parent: str = field(default="", repr=False)
    entity_id: str = ""
    bound_cidrs: Sequence[str] = ()
    lease_id: str = ""

    @property
    def batch(self) -> bool:
        """
        Whether this is a batch token: no accessor, no renewal, no revocation.
        """
        return self.type == "batch"

    def may_come_from(self, address: str) -> bool:
        """
        Tell whether a request from *address* may use this token.
        """
        return in_networks(address, self.bound_cidrs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """
    What a login, or the making or renewal of a token, grants; *lease_duration* in seconds.
    """

    policies: Sequence[str]
    display_name: str = "token"
    metadata: Mapping[str, str] | None = None
    wish: Wish = field(default_factory=Wish)
    renewable: bool = True
    num_uses: int = 0
    token_type: str = "service"  # noqa: S105 - a kind, no password
    entity_id: str = ""
    orphan: bool = True
    bound_cidrs: Sequence[str] = ()
    internal: Mapping[str, Any] = field(default_factory=dict, repr=False)
    client_token: str = field(default="", repr=False)
    accessor: str = ""
    lease_duration: int = 0
    mfa_requirement: Mapping[str, Any] | None = None

    def show(self) -> dict[str, Any]:
        """
        Return the `auth` block of an answer.
        """
        return {
            "client_token": self.client_token,
            "accessor": self.accessor,
            "policies": list(self.policies) or None,
            **({"token_policies": list(self.policies)} if self.policies else {}),
            "metadata": None if self.metadata is None else dict(self.metadata),
            "lease_duration": self.lease_duration,
            "renewable": self.renewable,
            "entity_id": self.entity_id,
            "token_type": self.token_type,
            "orphan": self.orphan,
            "mfa_requirement": self.mfa_requirement,
            "num_uses": self.num_uses,
        }


def wants_mfa(requirement: Mapping[str, Any]) -> Auth:
    """
    Return what a login grants as long as a second factor is missing: no token.

    openbao v2.5.5 vault/request_handling.go:1856.
    """
    return Auth(
        policies=[],
        renewable=False,
        token_type="default",  # noqa: S106 - a kind, no password
        orphan=False,
        mfa_requirement=requirement,
    )


def in_networks(address: str, networks: Sequence[str]) -> bool:
    """
    Tell whether *address* lies in one of *networks*, or there are none.
    """
    return not networks or any(
        ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False) for network in networks
    )
