"""
Response wrapping: an answer is kept, and a token that can fetch it once is given instead.

vault: ``vault/wrapping.go``.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import ApiError, bad_token, denied_by_policy, refused
from vault_pool.devserver.framework import Request
from vault_pool.devserver.namespaces import Namespace
from vault_pool.devserver.policies import parse_policy
from vault_pool.devserver.token_entry import Auth
from vault_pool.devserver.ttl import Wish
from vault_pool.devserver.values import show_time

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

# vault: the policy of wrapping tokens; lists of policies do not show it.
POLICY: Final = parse_policy("response-wrapping", 'path "sys/wrapping/unwrap" { capabilities = ["update"] }')
_INVALID: Final = "wrapping token is not valid or does not exist"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wrapped:
    body: dict[str, Any] = field(repr=False)
    creation_path: str
    creation_time: float
    ttl: int


class Wrapping:
    """
    The answers that are kept, and the paths below `sys/wrapping/`. Thread-safe.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._kept: dict[str, _Wrapped] = {}

    def wrap(self, body: dict[str, Any], path: str, ttl: int) -> dict[str, Any]:
        """
        Keep *body*, the answer at *path*, for *ttl* seconds; return the answer to give instead.
        """
        wish = Wish(ttl=ttl, explicit_max_ttl=ttl)
        auth = Auth(policies=[POLICY.name], wish=wish, renewable=False, num_uses=1)
        namespace = self._core.namespaces.of(path)
        limits, path = self._core.limits(path), path.removeprefix(namespace.path)
        made, _ = self._core.tokens.issue(auth, path, limits, namespace=namespace)
        now = self._core.clock.now()
        with self._lock:
            self._kept[made.client_token] = _Wrapped(body=body, creation_path=path, creation_time=now, ttl=ttl)
        info: dict[str, Any] = {
            "token": made.client_token,
            "accessor": made.accessor,
            "ttl": ttl,
            "creation_time": show_time(now),
            "creation_path": path,
        }
        inside = body["auth"] or {"accessor": (body["data"] or {}).get("secret_id_accessor")}
        if inside["accessor"]:
            info["wrapped_accessor"] = inside["accessor"]
        empty = {"request_id": "", "lease_id": "", "renewable": False, "lease_duration": 0, "data": None}
        return {**empty, "wrap_info": info, "warnings": None, "auth": None}

    def answer(self, request: Request) -> tuple[int, dict[str, Any] | None] | None:
        """
        Return status and body for a path below `sys/wrapping/`, None for any other.
        """
        namespace = self._core.namespaces.of(request.path)
        path = request.path.removeprefix(namespace.path)
        if path == "sys/wrapping/lookup" and request.operation in {"read", "update"}:
            return 200, self._lookup(request)
        if request.operation != "update":
            return None
        if path == "sys/wrapping/unwrap":
            return 200, self._take(self._named(request)).body
        if path in {"sys/wrapping/wrap", "sys/wrapping/rewrap"}:
            return 200, self._wrap_again(request, namespace)
        return None

    def _lookup(self, request: Request) -> dict[str, Any]:
        # vault: needs no token but the wrapping one, and costs no use.
        token = _token_in(request) or request.token or ""
        kept = self._kept.get(token)
        if kept is None or self._core.tokens.lookup(token) is None:
            raise refused(_INVALID)
        data = {
            "creation_path": kept.creation_path,
            "creation_time": show_time(kept.creation_time),
            "creation_ttl": kept.ttl,
        }
        return self._core.envelope_of(data)

    def _named(self, request: Request) -> str:
        """
        Return the wrapping token of an unwrap: the client token itself, or the body's if the client token may.
        """
        named = _token_in(request)
        if not request.token:
            raise (
                bad_token(self._core.flavor)
                if named
                else ApiError(403, "error validating wrapping token: token is empty")
            )
        if named:
            self._check(request)
        return named or request.token

    def _check(self, request: Request) -> None:
        entry = self._core.tokens.lookup(request.token)
        if entry is None:
            raise bad_token(self._core.flavor)
        last = self._core.tokens.use(entry)
        path = request.path.removeprefix(entry.namespace)
        allowed = self._core.acl(entry).allows("update", path, request.data, sudo=False)
        if last:
            self._core.tokens.ended(entry.id)
        if not allowed:
            raise denied_by_policy()

    def _take(self, token: str) -> _Wrapped:
        with self._lock:
            alive = self._core.tokens.lookup(token) is not None
            kept = self._kept.pop(token, None)
        if kept is None or not alive:
            raise refused(_INVALID)
        self._core.tokens.ended(token)
        return kept

    def _wrap_again(self, request: Request, namespace: Namespace) -> dict[str, Any]:
        self._check(request)
        if request.path.endswith("/rewrap"):
            kept = self._take(_token_in(request))
            return self.wrap(kept.body, namespace.path + kept.creation_path, kept.ttl)
        if not request.wrap_ttl:
            raise refused("endpoint requires response wrapping to be used")
        return self.wrap(self._core.envelope_of(dict(request.data)), request.path, request.wrap_ttl)


def _token_in(request: Request) -> str:
    """
    Return the wrapping token that the body names, if any. vault: ``Core.ValidateWrappingToken``.
    """
    token = request.data.get("token")
    if token is not None and not isinstance(token, str):
        raise ApiError(403, "error validating wrapping token: could not decode token in request body")
    if token == "":
        raise ApiError(403, "error validating wrapping token: empty token in request body")
    return str(token or "")
