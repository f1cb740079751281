"""
Inline authentication: a login in the headers of the request that needs it.

openbao v2.5.5: ``vault/request_handling.go`` ``handleInlineAuth``. The token lives for that request only. Vault has
nothing like it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from vault_pool.devserver.errors import failed
from vault_pool.devserver.framework import Request

_PREFIX: Final = "x-vault-inline-auth-"
FAILED_HEADER: Final = "X-Vault-Inline-Auth-Failed"


def inline_login(headers: Mapping[str, str], token: str | None, remote_address: str) -> Request | None:
    """
    Return the login that *headers*, with names in lower case, ask for; None if they do not.
    """
    path = headers.get(f"{_PREFIX}path")
    if path is None:
        return None
    if token:
        raise _failed("cannot layer inline authentication with token authentication")
    prefix = f"{_PREFIX}parameter-"
    parameters = [_parameter(value) for name, value in sorted(headers.items()) if name.startswith(prefix)]
    return Request(
        operation=headers.get(f"{_PREFIX}operation", "update"),
        path=path,
        data=dict(parameters),
        remote_address=remote_address,
    )


def _parameter(value: str) -> tuple[str, Any]:
    try:
        decoded = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _failed("failed raw url-safe base64 decoding header value") from None
    try:
        parameter = json.loads(decoded)
    except ValueError:
        parameter = None
    if not isinstance(parameter, dict):
        raise _failed("failed json decoding header value")
    for name in ("key", "value"):
        if name not in parameter:
            raise _failed(f"decoded header lacked `{name}` field")
    if not isinstance(parameter["key"], str):
        raise _failed("decoded header had incorrect type for `key` field")
    if len(parameter) != 2:
        raise _failed("unexpected field in decoded request parameter")
    return parameter["key"], parameter["value"]


def _failed(text: str) -> Exception:
    return failed(f"failed to perform inline authentication: {text}")
