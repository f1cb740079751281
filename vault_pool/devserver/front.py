"""
HTTP without sockets: what an exchange means, from its method, path, headers and body.

vault: ``http/handler.go`` and its neighbours.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from vault_pool.devserver import fault_paths, seal
from vault_pool.devserver.agent_cache import AgentCache
from vault_pool.devserver.core import Core
from vault_pool.devserver.errors import ApiError, ConnectionDropped, refused
from vault_pool.devserver.exchange import OPERATIONS, HttpRequest, HttpResponse
from vault_pool.devserver.fault_answers import instead
from vault_pool.devserver.faults import ANSWERS, STATES
from vault_pool.devserver.framework import Request
from vault_pool.devserver.inline_auth import inline_login
from vault_pool.devserver.values import BadDurationError, parse_duration

MAX_BODY: Final = 32 * 1024 * 1024
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_PATCH_TYPES: Final = ("application/merge-patch+json", "application/json-patch+json")


class Front:
    """
    Turns exchanges into requests to the core. Thread-safe.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._faults = core.faults
        self._fault_paths = fault_paths.FaultPaths(core, core.faults)
        self._seal = seal.SealPaths(core)
        self._agent = AgentCache(core)

    def handle(self, request: HttpRequest) -> HttpResponse:
        """
        Answer *request*. Raise `ConnectionDropped` where no answer is to be given.
        """
        if request.path.startswith(fault_paths.ROOT):
            return self._fault_paths.answer(request)
        with self._faults.meeting(OPERATIONS.get(request.method, ""), request.inside):
            agent = self._faults.claim("agent-cache")
            response = (
                self._answer(request) if agent is None else self._agent.answer(request, agent.fault, self._answer)
            )
            if self._faults.claim("cut"):
                if response.body is None:
                    raise ConnectionDropped
                response.cut = True
        return response

    def _answer(self, request: HttpRequest) -> HttpResponse:
        if _BAD_ESCAPE.search(request.path):
            # Go's server does not even call a handler.
            return HttpResponse(
                status=400, body="400 Bad Request", headers={"Content-Type": "text/plain; charset=utf-8"}
            )
        response = self._redirect(request.method, request.path) or self._answer_api(request)
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

    def _answer_api(self, request: HttpRequest) -> HttpResponse:
        if not request.path.startswith("/v1/"):
            return HttpResponse(status=404, body={"errors": []})
        self._faults.delay(after=False)
        answer = self._instead(request, after=False)
        if answer is None:
            answer = self._carry_out(request)
            self._faults.delay(after=True)
            answer = self._instead(request, after=True) or answer
        if request.method == "HEAD":
            answer.body = None
        return answer

    def _instead(self, request: HttpRequest, *, after: bool) -> HttpResponse | None:
        """
        Return what a fault answers in place of the true answer.
        """
        # Where the state of the server can be read, it is told instead of refusing to answer.
        told = STATES if request.inside in seal.READABLE else ()
        injection = self._faults.claim(*(kind for kind in ANSWERS if kind not in told), after=after)
        return None if injection is None else instead(injection.fault, request, self._core.flavor)

    def _carry_out(self, request: HttpRequest) -> HttpResponse:
        headers: dict[str, str] = {}
        try:
            path = self._path(request)
            headers |= self._core.quotas.take(path, request.remote_address)
            status, body = self._serve(request, path)
        except ApiError as error:
            return HttpResponse(
                status=error.status, body={"errors": list(error.errors)}, headers={**headers, **error.headers}
            )
        return HttpResponse(status=status, body=body, headers=headers)

    def _path(self, request: HttpRequest) -> str:
        """
        Return the path with the namespace before it; refuse what no handler gets to see.
        """
        if len(request.body) > MAX_BODY:
            raise ApiError(413, "http: request body too large" if self._core.flavor.openbao else "error parsing JSON")
        if any(part == ".." for part in request.inside.split("/")):
            raise refused("relative paths not supported")
        return self._core.namespaces.resolve(request.headers.get("x-vault-namespace", ""), request.inside)

    def _serve(self, request: HttpRequest, path: str) -> tuple[int, Any]:
        parameters = request.parameters
        if request.headers.get("x-vault-inconsistent") and not self._core.flavor.openbao:
            raise refused("forwarding via header X-Vault-Inconsistent=forward-active-node disabled in configuration")
        special = self._seal.answer(request.method, path, parameters, lambda: self._parse(request))
        if special is not None:
            return special
        operation = OPERATIONS.get(request.method)
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
        openbao = self._core.flavor.openbao
        return Request(
            operation=operation,
            path=path,
            data=data,
            token=request.token,
            remote_address=request.remote_address,
            wrap_ttl=_wrap_ttl(request.headers),
            certificate=request.certificate,
            inline_login=inline_login(request.headers, request.token, request.remote_address) if openbao else None,
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
