"""
`auth/kubernetes`: pods log in with the token of their service account, which Kubernetes reviews.

vault: ``builtin/credential/kubernetes``. The review is asked of the configured `kubernetes_host`, as TokenReview.
"""

from __future__ import annotations

import fnmatch
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import ApiError, BackendError, denied, refused
from vault_pool.devserver.field_types import FLAG, STRINGS, TEXT
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route, keys
from vault_pool.devserver.jws import Expected, PublicKey, audiences, load_key, validate
from vault_pool.devserver.login_role import OLD_FIELDS, TOKEN_FIELDS, grant, token_settings, token_wish
from vault_pool.devserver.token_entry import Auth, in_networks
from vault_pool.devserver.ttl import Wish

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_CONFIG_FIELDS: Final = {
    "kubernetes_host": TEXT,
    "kubernetes_ca_cert": TEXT,
    "token_reviewer_jwt": TEXT,
    "pem_keys": STRINGS,
    "issuer": TEXT,
    "disable_iss_validation": FLAG,
    "disable_local_ca_jwt": FLAG,
}
_ROLE_FIELDS: Final = {
    "bound_service_account_names": STRINGS,
    "bound_service_account_namespaces": STRINGS,
    "audience": TEXT,
    "alias_name_source": TEXT,
}
_REVIEW: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_TIMEOUT: Final = 10.0


class KubernetesEngine:
    """
    The auth method. Thread-safe.
    """

    kind: Final = "kubernetes"
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
                exists=lambda _request, fields: fields.text("name").lower() in self._roles,
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
        role = self._roles.get(auth.internal["role"].lower())
        if role is None:
            raise BackendError(f"role {auth.internal['role']} does not exist during renewal")
        return token_wish(role)

    def _read_config(self, _request: Request, _fields: Fields) -> Reply | None:
        if self._config is None:
            return None
        shown = {name: value for name, value in self._config.items() if name != "token_reviewer_jwt"}
        return Reply(data=shown | {"token_reviewer_jwt_set": bool(self._config["token_reviewer_jwt"])})

    def _write_config(self, _request: Request, fields: Fields) -> None:
        config = {name: fields.text(name) for name, kind in _CONFIG_FIELDS.items() if kind is TEXT}
        config |= {"pem_keys": fields.get("pem_keys", [])}
        config |= {name: fields.get(name, default) for name, default in _FLAGS.items()}
        if not config["kubernetes_host"]:
            raise refused("no host provided")
        if config["disable_local_ca_jwt"] and not config["kubernetes_ca_cert"]:
            raise refused("kubernetes_ca_cert must be given when disable_local_ca_jwt is true")
        try:
            self._keys = [load_key(pem) for pem in config["pem_keys"]]
        except ValueError as error:
            raise refused(str(error)) from None
        self._config = config

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        role = self._roles.get(fields.text("name").lower())
        return None if role is None else Reply(data=dict(sorted(role.items())))

    def _write(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name").lower()
        known = self._roles.get(name)
        role = {"alias_name_source": "serviceaccount_uid", **(known or {}), **fields.within(tuple(_ROLE_FIELDS))}
        role |= token_settings(known, fields, openbao=self._core.flavor.openbao)
        for needed in ("bound_service_account_names", "bound_service_account_namespaces"):
            if not role.get(needed):
                raise refused(f'"{needed}" can not be empty')
        if role["alias_name_source"] not in ("serviceaccount_uid", "serviceaccount_name"):
            raise refused(f'invalid alias_name_source "{role["alias_name_source"]}"')
        self._roles[name] = role

    def _delete(self, _request: Request, fields: Fields) -> None:
        self._roles.pop(fields.text("name").lower(), None)

    def _login(self, request: Request, fields: Fields) -> Reply:
        for needed in ("role", "jwt"):
            if not fields.text(needed):
                raise refused(f"missing {needed}")
        name, token = fields.text("role"), fields.text("jwt")
        role, config = self._roles.get(name.lower()), self._config
        if role is None:
            raise refused(f'invalid role name "{name}"')
        if not in_networks(request.remote_address, role["token_bound_cidrs"]):
            raise denied()
        if config is None:
            raise ApiError(500, "could not load backend configuration")
        claims = self._validated(token, config, role)
        account = _account(claims)
        _check_bounds(role, account)
        wanted = [role["audience"]] if role.get("audience") else audiences(claims)
        if not _reviewed(config, token, wanted, account):
            raise denied()
        by_name = role["alias_name_source"] == "serviceaccount_name"
        alias = f"{account['namespace']}/{account['name']}" if by_name else account["uid"]
        auth = grant(
            role,
            display_name=f"{account['namespace']}-{account['name']}",
            metadata={"role": name, **{f"service_account_{key}": value for key, value in account.items()}},
            entity_id=self._core.logins.entity_id(request.mount_point, alias),
            internal={"role": name},
        )
        return Reply(auth=auth)

    def _validated(self, token: str, config: Mapping[str, Any], role: Mapping[str, Any]) -> dict[str, Any]:
        expected = Expected(
            issuer="" if config["disable_iss_validation"] else config["issuer"],
            audiences=[role["audience"]] if role.get("audience") else (),
        )
        try:
            return validate(token, self._keys or None, expected, self._core.clock.now(), undated=True)
        except ValueError as error:
            if "verifying token signature" in str(error):
                raise denied() from None
            raise ApiError(403, str(error)) from None


_FLAGS: Final[Mapping[str, bool]] = {"disable_iss_validation": True, "disable_local_ca_jwt": False}


def _account(claims: Mapping[str, Any]) -> dict[str, str]:
    """
    Return the service account that *claims* speak of, in the old form or the projected one.
    """
    old = "kubernetes.io/serviceaccount/"
    projected = claims.get("kubernetes.io")
    if isinstance(projected, Mapping):
        inner = projected.get("serviceaccount") or {}
        found = {"name": inner.get("name"), "uid": inner.get("uid"), "namespace": projected.get("namespace")}
    else:
        found = {"name": claims.get(f"{old}service-account.name"), "uid": claims.get(f"{old}service-account.uid")}
        found["namespace"] = claims.get(f"{old}namespace")
    found["secret_name"] = claims.get(f"{old}secret.name")
    if not found["uid"]:
        raise ApiError(500, "could not parse UID from claims")
    return {name: str(value or "") for name, value in found.items()}


def _check_bounds(role: Mapping[str, Any], account: Mapping[str, str]) -> None:
    bounds = (
        ("bound_service_account_names", "name", "service account name not authorized"),
        ("bound_service_account_namespaces", "namespace", "namespace not authorized"),
    )
    for bound, part, refusal in bounds:
        if not any(fnmatch.fnmatchcase(account[part], pattern) for pattern in role[bound]):
            raise ApiError(403, refusal)


def _reviewed(config: Mapping[str, Any], token: str, wanted: Sequence[str], account: Mapping[str, str]) -> bool:
    """
    Ask Kubernetes about *token*, in the name of the reviewer or of the token itself; False whatever goes wrong.
    """
    spec = {"token": token, "audiences": list(wanted)}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
    request = urllib.request.Request(  # noqa: S310 - the host is configured
        config["kubernetes_host"].rstrip("/") + _REVIEW,
        data=json.dumps(body).encode(),
        method="POST",
        headers={
            "Authorization": f"Bearer {config['token_reviewer_jwt'] or token}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        },
    )
    try:
        trust = ssl.create_default_context(cadata=config["kubernetes_ca_cert"] or None)
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        with urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT) as answer:
            status = json.load(answer)["status"]
        user = status["user"]
        seen = set(status.get("audiences") or ())
        told = user["username"].split(":")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, urllib.error.URLError):
        return False
    if status.get("error") or not status.get("authenticated") or (wanted and not seen & set(wanted)):
        return False
    return bool(
        told == ["system", "serviceaccount", account["namespace"], account["name"]] and user["uid"] == account["uid"]
    )
