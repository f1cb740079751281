"""
What is answered where a fault takes the place of the true answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from vault_pool.devserver.errors import ApiError, ConnectionDropped, bad_token, denied_by_policy, wrapped
from vault_pool.devserver.exchange import HttpRequest, HttpResponse
from vault_pool.devserver.faults import Fault
from vault_pool.devserver.flavor import Flavor

_INTERNAL: Final = 500


def instead(fault: Fault, request: HttpRequest, flavor: Flavor) -> HttpResponse | None:
    """
    Return what *fault* answers to *request*; None: it lets it pass. Raise `ConnectionDropped` for no answer at all.

    Where the state of the server can be read, it is told, and this is not asked (`seal.py`).
    """
    answer = _ANSWERS.get(fault.kind)
    return None if answer is None else answer(fault, request, flavor)


def _errors(status: int, text: str) -> HttpResponse:
    return HttpResponse(status=status, body={"errors": [text]})


def _of(error: ApiError) -> HttpResponse:
    return HttpResponse(status=error.status, body={"errors": list(error.errors)})


def _standby(fault: Fault, request: HttpRequest, _flavor: Flavor) -> HttpResponse:
    """
    Redirect to the active node, without a content type. openbao v2.5.5 http/handler.go:894 ``respondStandby``.
    """
    if not fault.address:
        return _errors(503, "no active Vault instance found")
    return HttpResponse(
        status=307, headers={"Location": fault.address.rstrip("/") + request.target, "Content-Type": ""}
    )


def _rate_limited(fault: Fault, request: HttpRequest, _flavor: Flavor) -> HttpResponse:
    """
    Refuse. vault: the headers come only with ``enable_rate_limit_response_headers``.
    """
    answer = _errors(429, f'request path "{request.inside}": rate limit quota exceeded')
    if fault.retry_after is not None:
        answer.headers = {
            "Retry-After": str(fault.retry_after),
            "X-Ratelimit-Limit": "1",
            "X-Ratelimit-Remaining": "0",
            "X-Ratelimit-Reset": str(fault.retry_after),
        }
    return answer


def _header_required(_fault: Fault, request: HttpRequest, _flavor: Flavor) -> HttpResponse | None:
    """
    Refuse what has no `X-Vault-Request`. openbao v2.5.5 command/agent.go:884 ``verifyRequestHeader``.
    """
    missing = request.headers.get("x-vault-request") != "true"
    return _errors(412, 'missing "X-Vault-Request" header') if missing else None


def _error(fault: Fault, _request: HttpRequest, _flavor: Flavor) -> HttpResponse:
    if fault.status == _INTERNAL:
        return _errors(_INTERNAL, wrapped("internal error"))
    try:
        title = f"{fault.status} {HTTPStatus(fault.status).phrase}"
    except ValueError:
        title = str(fault.status)
    return HttpResponse(
        status=fault.status, body=f"<html><head><title>{title}</title></head><body>{title}</body></html>\n"
    )


def _drop(_fault: Fault, _request: HttpRequest, _flavor: Flavor) -> HttpResponse:
    raise ConnectionDropped


def _lease_limited(_fault: Fault, request: HttpRequest, _flavor: Flavor) -> HttpResponse:
    return _errors(429, wrapped(f'request path "{request.inside}": lease count quota exceeded'))


_ANSWERS: Final[Mapping[str, Callable[[Fault, HttpRequest, Flavor], HttpResponse | None]]] = {
    "bad-token": lambda _fault, _request, flavor: _of(bad_token(flavor)),
    "behind": lambda _fault, _request, _flavor: _errors(412, "required index state not present"),
    "denied": lambda _fault, _request, _flavor: _of(denied_by_policy()),
    "drop": _drop,
    "error": _error,
    "header-required": _header_required,
    "lease-limited": _lease_limited,
    "rate-limited": _rate_limited,
    "sealed": lambda _fault, _request, _flavor: _errors(503, "Vault is sealed"),
    "standby": _standby,
}
