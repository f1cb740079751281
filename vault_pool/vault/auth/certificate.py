"""
The login with the client certificate of the connection itself.
"""

from __future__ import annotations

from vault_pool.errors import ConfigurationError
from vault_pool.vault.answer import Grant
from vault_pool.vault.login import LoginClient
from vault_pool.vault.paths import checked_mount_point


class TLSCertificate:
    """
    A login with the client certificate of ``Vault(cert=…)``, which is read from its files again at each login.

    *role* narrows down which role of the auth method it has to match
    (Vault documentation, "TLS certificates auth method").
    """

    _path = "?"
    name = "cert"

    def __init__(self, role: str | None = None, *, mount_point: str = "cert") -> None:
        if role is not None and (not isinstance(role, str) or not role.strip()):
            raise ConfigurationError(f"role must be the name of a role of the auth method, not {role!r}")
        self._body = {} if role is None else {"name": role}
        self._path = f"auth/{checked_mount_point(mount_point, 'a cert auth method')}/login"

    def login(self, client: LoginClient) -> Grant:
        """
        Log in over a new connection.
        """
        client.reconnect()
        return client.login(self._path, self._body, lockout=False)

    def __repr__(self) -> str:
        return f"TLSCertificate(path={self._path!r})"
