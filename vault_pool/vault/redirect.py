"""
Redirects: a standby that sends us to the active node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

# The token is never carried from a way that nobody can listen to, to one where somebody can.
_SAFE = {"http": 0, "https": 1, "unix": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """
    An answer that names another place. *location* is its URL, which is not shown: it may hold a password.
    """

    status: int
    location: str = field(repr=False)

    @property
    def host(self) -> str:
        """
        Where it points to, as it may be shown.
        """
        try:
            return urlsplit(self.location).netloc.rpartition("@")[2] or "nowhere"
        except ValueError:
            return "nowhere"

    def target(self, address: str, path: str) -> str | None:
        """
        Return the address to repeat the request for *path* at, None where that would be wrong.

        The same path on another host, over a way that is as safe, is what Vault sends (Vault documentation, "High
        availability", "Request redirection"); anything else is a gateway or its login page, and no place for a token.
        """
        try:
            new, old = urlsplit(self.location), urlsplit(address)
            port = new.port
        except ValueError:
            return None
        if new.scheme not in ("http", "https") or not new.hostname or "@" in new.netloc or port == 0:
            return None
        if _SAFE[new.scheme] < _SAFE[old.scheme] or (new.scheme, new.netloc) == (old.scheme, old.netloc):
            return None
        prefix = new.path.removesuffix(f"/v1/{path}")
        return None if prefix == new.path or new.query else f"{new.scheme}://{new.netloc}{prefix}"
