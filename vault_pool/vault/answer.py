"""
What Vault answers, as values that keep their secrets to themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vault_pool.vault.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    An answer of Vault other than a refusal.

    *body* is the decoded JSON, empty where there was none (204); it may hold secrets, so no repr shows it.
    *headers* have names in lower case.
    """

    status: int
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def data(self) -> Mapping[str, Any]:
        """
        Vault's ``data`` object, empty where there is none.
        """
        data = self.body.get("data")
        return data if isinstance(data, Mapping) else {}

    @property
    def lease_id(self) -> str:
        """
        The lease that the answer came with, or an empty string: a ``lease_duration`` alone is no lease (KV version 1).
        """
        lease_id = self.body.get("lease_id")
        return lease_id if isinstance(lease_id, str) else ""

    @property
    def lease_duration(self) -> float:
        """
        The seconds that the lease was granted for, 0 where the answer does not say.

        A caching proxy repeats the value at issue and counts the seconds since then in the header ``Age``
        (Vault documentation, "Vault Proxy caching").
        """
        return max(0.0, seconds(self.body.get("lease_duration")) - self.age)

    @property
    def age(self) -> float:
        """
        For how many seconds a caching proxy has kept this answer.
        """
        age = self.headers.get("age", "")
        return float(age) if age.isdecimal() else 0.0

    @property
    def cached(self) -> bool:
        """
        Whether a caching proxy gave it, so that Vault was not asked at all.
        """
        return self.headers.get("x-cache", "").upper() == "HIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """
    A token together with the terms that Vault granted it on.

    *token* is None where an agent adds its own. *ttl* is what is left of its term in seconds, infinite for a token
    without end (root); *increment* what a renewal asks for. *ours* tells that a login of ours made it, so that it is
    ours to revoke. *born* tells an agent's token from its successor. *uses* is how many requests it is good for, None
    for any number. *batch* tokens can be neither renewed nor revoked.
    """

    token: Secret | None
    ttl: float
    increment: float
    renewable: bool
    ours: bool = False
    uses: int | None = None
    batch: bool = False
    born: float = 0.0


def grant_of_login(answer: Answer) -> Grant | None:
    """
    Return what a login answered, or None where it gave no token. Raises nothing: its locals hold the token in clear.
    """
    auth = answer.body.get("auth")
    if not isinstance(auth, Mapping) or not isinstance(auth.get("client_token"), str) or not auth["client_token"]:
        return None
    ttl = seconds(auth.get("lease_duration")) or math.inf
    return Grant(
        token=Secret(auth["client_token"]),
        ttl=ttl,
        increment=ttl,
        renewable=auth.get("renewable") is True,
        ours=True,
        uses=int(seconds(auth.get("num_uses"))) or None,
        batch=auth.get("token_type") == "batch",
    )


def grant_of_lookup(answer: Answer, token: Secret | None) -> Grant | None:
    """
    Return what ``lookup-self`` told of *token*, or None where it told nothing. A token without end has a ttl of 0.

    An end that is nearer than a second also reads 0, but then ``expire_time`` is set
    (Vault API documentation, "Lookup a token (self)").
    """
    data = answer.data
    if "ttl" not in data:
        return None
    uses = data.get("num_uses")  # what is left after this request: -1 when it was the last
    endless = seconds(data.get("ttl")) == 0 and data.get("expire_time") is None
    ttl = math.inf if endless else seconds(data.get("ttl"))
    return Grant(
        token=token,
        ttl=ttl,
        increment=max(ttl, seconds(data.get("creation_ttl"))),
        renewable=data.get("renewable") is True,
        uses=max(0, uses) if isinstance(uses, int) and uses != 0 else None,
        batch=data.get("type") == "batch",
        born=seconds(data.get("creation_time")),
    )


def seconds(value: object) -> float:
    """
    Return *value* if it is a number that can be a duration, and 0 otherwise.
    """
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if sound else 0.0  # type: ignore[arg-type]
