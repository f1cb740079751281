"""
One HTTP exchange without sockets: what came, and what is to be sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote

# vault: what an HTTP method asks for.
OPERATIONS: Final[Mapping[str, str]] = {
    "DELETE": "delete",
    "GET": "read",
    "HEAD": "header",
    "LIST": "list",
    "OPTIONS": "help",
    "PATCH": "patch",
    "POST": "update",
    "PUT": "update",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """
    One request as it came; *target* is the path with the query, still encoded; header names are in lower case.

    *certificate* is the client's, in DER, if TLS checked one.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    remote_address: str = "127.0.0.1"
    certificate: bytes | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        """
        The path, still encoded, without the query.
        """
        return self.target.partition("?")[0]

    @property
    def inside(self) -> str:
        """
        The path behind ``/v1/``, decoded.
        """
        return unquote(self.path.removeprefix("/v1/"))

    @property
    def parameters(self) -> dict[str, str]:
        """
        The query's parameters; of several with one name the first.
        """
        query = self.target.partition("?")[2]
        return {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}

    @property
    def token(self) -> str | None:
        """
        The token that came along. vault: ``X-Vault-Token`` wins over a bearer token.
        """
        if self.headers.get("x-vault-token"):
            return self.headers["x-vault-token"]
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if kind == "Bearer" else None


@dataclass(slots=True, kw_only=True)
class HttpResponse:
    """
    One answer; *body* is sent as JSON, a text as HTML; None: no body. *cut*: the connection ends in the middle of it.
    """

    status: int
    body: Any = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False

    def payload(self) -> bytes:
        """
        Return the bytes to send.
        """
        if self.body is None:
            return b""
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode() + b"\n"
