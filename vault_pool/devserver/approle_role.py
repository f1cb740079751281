"""
What AppRole keeps: roles and their secret ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vault_pool.devserver.errors import failed, refused
from vault_pool.devserver.login_role import check_token_settings, is_network, new_token_settings
from vault_pool.devserver.values import show_time

# vault: "tidy" removes what is past its TTL about once a minute; until then a login passes.
_TIDY_SECONDS: Final = 60.0


@dataclass(slots=True, kw_only=True)
class SecretId:
    """
    One secret id of a role; *ttl* in seconds, 0 = for ever; *num_uses* 0 = any number.
    """

    secret_id: str = field(repr=False)
    accessor: str
    created: float
    ttl: int
    num_uses: int
    metadata: Mapping[str, str]
    cidr_list: list[str]
    token_bound_cidrs: list[str]

    def over(self, now: float) -> bool:
        """
        Tell whether it was past its TTL when it was last tidied up.
        """
        return self.ttl > 0 and now >= self.created + self.ttl and now >= self.created + _TIDY_SECONDS

    def show(self) -> dict[str, Any]:
        """
        Return what a lookup shows.
        """
        end = self.created + self.ttl if self.ttl else None
        return {
            "cidr_list": self.cidr_list,
            "creation_time": show_time(self.created),
            "expiration_time": show_time(end) if end else "0001-01-01T00:00:00Z",
            "last_updated_time": show_time(self.created),
            "metadata": dict(self.metadata),
            "secret_id_accessor": self.accessor,
            "secret_id_num_uses": self.num_uses,
            "secret_id_ttl": self.ttl,
            "token_bound_cidrs": self.token_bound_cidrs,
        }


@dataclass(slots=True, kw_only=True)
class Role:
    """
    A role: *settings* as a read shows them, its role id, and its secret ids.
    """

    name: str
    role_id: str
    settings: dict[str, Any]
    secret_ids: dict[str, SecretId] = field(default_factory=dict, repr=False)


def parse_metadata(sent: str) -> Mapping[str, str]:
    """
    Return the metadata of a secret id, which is sent as the text of a JSON object.
    """
    try:
        parsed = json.loads(sent or "{}")
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise refused("failed to parse metadata: failed to parse the input: invalid <key,value> format")
    return parsed


def check_cidrs(what: str, networks: Sequence[str]) -> None:
    """
    Refuse what Go's ``net.ParseCIDR`` refuses.
    """
    for one in networks:
        if "/" not in one or not is_network(one):
            raise failed(f"failed to validate {what}: invalid CIDR address: {one}")


def check(settings: Mapping[str, Any]) -> None:
    """
    Refuse the settings of a role that cannot be.
    """
    check_token_settings(settings)
    if settings["secret_id_num_uses"] < 0:
        raise refused("secret_id_num_uses cannot be negative")
    check_cidrs("CIDR blocks", settings["secret_id_bound_cidrs"] or ())


def new_settings(*, openbao: bool) -> dict[str, Any]:
    """
    Return the settings of a role for which nothing was said.
    """
    return {
        "bind_secret_id": True,
        "local_secret_ids": False,
        "secret_id_bound_cidrs": None,
        "secret_id_num_uses": 0,
        "secret_id_ttl": 0,
        **new_token_settings(openbao=openbao),
    }
