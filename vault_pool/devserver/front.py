"""
HTTP without sockets: what an exchange means, from its method, path, headers and body.

vault: ``http/handler.go`` and its neighbours.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from vault_pool.devserver.core import Core
from vault_pool.devserver.errors import ApiError, refused
from vault_pool.devserver.faults import Faults
from vault_pool.devserver.framework import Request
from vault_pool.devserver.inline_auth import inline_login
from vault_pool.devserver.seal import SealPaths
from vault_pool.devserver.values import BadDurationError, parse_duration

MAX_BODY: Final = 32 * 1024 * 1024
_OPERATIONS: Final = {
    "DELETE": "delete",
    "GET": "read",
    "HEAD": "header",
    "LIST": "list",
    "OPTIONS": "help",
    "PATCH": "patch",
    "POST": "update",
    "PUT": "update",
}
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_PATCH_TYPES: Final = ("application/merge-patch+json", "application/json-patch+json")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """
    One request as it came; *target* is the path with the query, still encoded; header names are in lower case.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    remote_address: str = "127.0.0.1"


@dataclass(slots=True, kw_only=True)
class HttpResponse:
    """
    One answer; *body* is sent as JSON, a text as HTML; None: no body.
    """

    status: int
    body: Any = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict)

    def payload(self) -> bytes:
        """
        Return the bytes to send.
        """
        if self.body is None:
            return b""
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode() + b"\n"


class Front:
    """
    Turns exchanges into requests to the core. Thread-safe.
    """

    def __init__(self, core: Core, faults: Faults) -> None:
        self._core = core
        self._faults = faults
        self._seal = SealPaths(core)

    def handle(self, request: HttpRequest) -> HttpResponse:
        """
        Answer *request*.
        """
        path, _, query = request.target.partition("?")
        if _BAD_ESCAPE.search(path):
            # Go's server does not even call a handler.
            return HttpResponse(
                status=400, body="400 Bad Request", headers={"Content-Type": "text/plain; charset=utf-8"}
            )
        response = self._redirect(request.method, path) or self._answer(request, path, query)
        html = isinstance(response.body, str)
        response.headers.setdefault("Content-Type", "text/html; charset=utf-8" if html else "application/json")
        # openbao: a body that is too large is refused before the handler that sets these.
        if response.status != 413 or not self._core.flavor.openbao:
            response.headers.setdefault("Cache-Control", "no-store")
            response.headers.setdefault("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
        namespace = request.headers.get("x-vault-namespace")
        if namespace:
            response.headers["X-Vault-Namespace"] = namespace
        return response

    def _redirect(self, method: str, path: str) -> HttpResponse | None:
        """
        Send callers to the clean form of a path with empty or relative segments. vault: Go's ``ServeMux``.
        """
        flavor = self._core.flavor
        # Go's mux cleans the decoded path; OpenBao looks at the encoded one and refuses what hides in it.
        shown = path if flavor.openbao else unquote(path)
        clean = posixpath.normpath(shown).replace("//", "/") + ("/" if shown.endswith("/") and len(shown) > 1 else "")
        if path == "/":
            clean, status, text = "/ui/", 307, "Temporary Redirect"
        else:
            status, text = flavor.redirect_status, flavor.redirect_text
        if clean == shown:
            return None
        # Go's ``http.Redirect`` has words for those only who read them.
        body = f'<a href="{clean}">{text}</a>.\n\n' if method == "GET" else None
        return HttpResponse(status=status, body=body, headers={"Location": clean})

    def _answer(self, request: HttpRequest, path: str, query: str) -> HttpResponse:
        if not path.startswith("/v1/"):
            return HttpResponse(status=404, body={"errors": []})
        inside = unquote(path[4:])
        self._faults.hold(inside, after=False)
        failure = self._faults.failure(inside)
        if failure is not None:
            return HttpResponse(status=failure.status, body=failure.body)
        headers: dict[str, str] = {}
        try:
            status, body = self._serve(request, inside, query)
        except ApiError as error:
            status, body, headers = error.status, {"errors": list(error.errors)}, error.headers
        self._faults.hold(inside, after=True)
        return HttpResponse(status=status, body=None if request.method == "HEAD" else body, headers=headers)

    def _serve(self, request: HttpRequest, path: str, query: str) -> tuple[int, Any]:
        if len(request.body) > MAX_BODY:
            raise ApiError(413, "http: request body too large" if self._core.flavor.openbao else "error parsing JSON")
        if any(part == ".." for part in path.split("/")):
            raise refused("relative paths not supported")
        path = self._core.namespaces.resolve(request.headers.get("x-vault-namespace", ""), path)
        parameters = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        if request.headers.get("x-vault-inconsistent") and not self._core.flavor.openbao:
            raise refused("forwarding via header X-Vault-Inconsistent=forward-active-node disabled in configuration")
        special = self._seal.answer(request.method, path, parameters, lambda: self._parse(request))
        if special is not None:
            return special
        operation = _OPERATIONS.get(request.method)
        if operation is None:
            raise ApiError(405)
        return self._core.handle(self._request(request, operation, path, parameters))

    def _request(self, request: HttpRequest, operation: str, path: str, parameters: dict[str, str]) -> Request:
        data: dict[str, Any] = {}
        if operation in {"read", "list", "delete"}:
            listing = parameters.pop("list", "")
            if operation == "read" and listing.lower() in {"1", "t", "true"}:
                operation = "list"
            data = dict(parameters)
        elif operation in {"update", "patch"}:
            kind = request.headers.get("content-type", "").partition(";")[0].strip()
            if operation == "patch" and kind not in _PATCH_TYPES:
                raise (
                    refused("mime: no media type")
                    if not kind
                    else ApiError(415, f"PATCH requires Content-Type of application/merge-patch+json, provided {kind}")
                )
            data = self._parse(request)
        if operation == "list" and not path.endswith("/"):
            path += "/"
        token = _token(request.headers)
        openbao = self._core.flavor.openbao
        return Request(
            operation=operation,
            path=path,
            data=data,
            token=token,
            remote_address=request.remote_address,
            wrap_ttl=_wrap_ttl(request.headers),
            inline_login=inline_login(request.headers, token, request.remote_address) if openbao else None,
        )

    def _parse(self, request: HttpRequest) -> dict[str, Any]:
        """
        Return the body's fields. vault: JSON whatever the content type says, forms only where declared.
        """
        text = request.body.decode("utf-8", "replace")
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind == "application/x-www-form-urlencoded" and text[:1] not in {"{", "["}:
            return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
        if not text.strip():
            return {}
        try:
            if self._core.flavor.openbao:
                parsed = json.loads(text)
            else:
                # Go's decoder reads one value and never looks at what follows.
                parsed, _ = json.JSONDecoder().raw_decode(text.lstrip())
        except (ValueError, RecursionError):
            raise refused("error parsing JSON") from None
        if parsed is None:
            return {}
        if not isinstance(parsed, dict):
            raise refused("error parsing JSON")
        return parsed


def _wrap_ttl(headers: Mapping[str, str]) -> int:
    try:
        return max(0, parse_duration(headers.get("x-vault-wrap-ttl", "")))
    except BadDurationError as error:
        raise refused(f"error parsing X-Vault-Wrap-TTL header: {error}") from None


def _token(headers: Mapping[str, str]) -> str | None:
    """
    Return the token that came along. vault: ``X-Vault-Token`` wins over a bearer token.
    """
    if headers.get("x-vault-token"):
        return headers["x-vault-token"]
    kind, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if kind == "Bearer" else None
