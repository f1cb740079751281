"""
What AppRole keeps: roles and their secret ids.
"""

from __future__ import annotations

import ipaddress
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vault_pool.devserver.errors import ConnectionDropped, failed, refused
from vault_pool.devserver.token_entry import Auth
from vault_pool.devserver.ttl import Wish
from vault_pool.devserver.values import show_time

# vault: "tidy" removes what is past its TTL about once a minute; until then a login passes.
_TIDY_SECONDS: Final = 60.0
_TOKEN_TYPES: Final = ("", "default", "service", "batch", "default-service", "default-batch")


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
    entity_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def wish(self) -> Wish:
        """
        Return what the role wants for its tokens.
        """
        return Wish(
            ttl=self.settings["token_ttl"],
            max_ttl=self.settings["token_max_ttl"],
            period=self.settings["token_period"],
            explicit_max_ttl=self.settings["token_explicit_max_ttl"],
        )

    def auth(self, metadata: Mapping[str, str], cidrs: list[str]) -> Auth:
        """
        Return what a login grants; *metadata* is the secret id's, *cidrs* are the networks that bind the token.
        """
        no_default = self.settings["token_no_default_policy"]
        kind = self.settings["token_type"]
        return Auth(
            policies=sorted(set(self.settings["token_policies"]) | (set() if no_default else {"default"})),
            display_name="approle",
            metadata={"role_name": self.name, **metadata},
            wish=self.wish(),
            num_uses=self.settings["token_num_uses"],
            token_type="batch" if kind == "batch" else "service",
            entity_id=self.entity_id,
            bound_cidrs=cidrs,
            internal={"role": self.name},
        )


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
        if "/" not in one or not _is_network(one):
            raise failed(f"failed to validate {what}: invalid CIDR address: {one}")


def check(settings: Mapping[str, Any]) -> None:
    """
    Refuse the settings of a role that cannot be.
    """
    if not isinstance(settings["token_type"], str):
        raise ConnectionDropped
    if settings["token_type"] not in _TOKEN_TYPES:
        raise refused(f"invalid 'token_type' value \"{settings['token_type']}\"")
    if settings["token_num_uses"] < 0:
        raise refused("'token_num_uses' cannot be negative")
    if settings["secret_id_num_uses"] < 0:
        raise refused("secret_id_num_uses cannot be negative")
    check_cidrs("CIDR blocks", settings["secret_id_bound_cidrs"] or ())
    for one in settings["token_bound_cidrs"]:
        if not _is_network(one):
            text = (
                f'error parsing address "{one}": Unable to convert "{one}" to an IPv4 or IPv6 address, or a UNIX Socket'
            )
            raise refused(text)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def new_settings(*, openbao: bool) -> dict[str, Any]:
    """
    Return the settings of a role for which nothing was said.
    """
    settings: dict[str, Any] = {
        "bind_secret_id": True,
        "local_secret_ids": False,
        "secret_id_bound_cidrs": None,
        "secret_id_num_uses": 0,
        "secret_id_ttl": 0,
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
