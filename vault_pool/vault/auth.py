"""
Logins: how we come by a token.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from vault_pool.errors import ConfigurationError, VaultDenied
from vault_pool.vault.answer import Grant
from vault_pool.vault.environment import variable
from vault_pool.vault.login import LoginClient
from vault_pool.vault.secret import Secret

_LOOK_AGAIN = 15.0


class Auth(Protocol):
    """
    A way to come by a token.
    """

    @property
    def name(self) -> str:
        """
        The words by which logs and errors name this login; no secret.
        """

    @property
    def ours(self) -> bool:
        """
        Whether the tokens belong to us, to revoke them when they are no longer needed.
        """

    def login(self, client: LoginClient) -> Grant:
        """
        Return a token that lives, by way of *client*. Called by one thread at a time; raises `VaultPoolError` only.
        """


class Token:
    """
    A token that the application was given, and that stays its own: it is renewed where it can be, never revoked.
    """

    name = "token"
    ours = False

    def __init__(self, token: str) -> None:
        self._token = Secret(token)
        del token
        if not self._token.sendable:
            raise ConfigurationError("token must be a printable text without spaces around it, and not empty")

    @classmethod
    def from_env(cls) -> Token:
        """
        Take the token from ``VAULT_TOKEN`` (``BAO_TOKEN``), now.
        """
        if not variable("TOKEN"):
            raise ConfigurationError("no token: set VAULT_TOKEN (or BAO_TOKEN)")
        return cls(variable("TOKEN") or "")

    def login(self, client: LoginClient) -> Grant:
        """
        Look the token up.
        """
        return client.lookup(self._token)

    def __repr__(self) -> str:
        return "Token(<secret>)"


class ClientToken:
    """
    The token of an hvac client, read from it at each login: the application may have replaced it.
    """

    name = "hvac client"
    ours = False

    def __init__(self, client: Any) -> None:
        self._client = client

    def login(self, client: LoginClient) -> Grant:
        """
        Look the token up that the hvac client has now.
        """
        token = Secret(self._client.token or "")
        if not token.sendable:
            raise VaultDenied("the hvac client has no token", status=None)
        return client.lookup(token)

    def __repr__(self) -> str:
        return "ClientToken(<secret>)"


class AppRole:
    """
    The login for machines. *secret_id* is given, or read from *secret_id_file* at each login, since such files are
    rewritten; without either the role must have ``bind_secret_id=false`` (Vault documentation, "AppRole auth method").
    """

    name = "approle"
    ours = True

    def __init__(
        self,
        role_id: str,
        secret_id: str | None = None,
        *,
        secret_id_file: str | os.PathLike[str] | None = None,
        mount_point: str = "approle",
    ) -> None:
        self._role_id = Secret(role_id)
        self._secret_id = None if secret_id is None else Secret(secret_id)
        self._file = None if secret_id_file is None else Path(secret_id_file)
        self._path = f"auth/{mount_point.strip('/')}/login"
        del role_id, secret_id
        if not self._role_id.sendable:
            raise ConfigurationError("role_id (VAULT_ROLE_ID) must be a printable text, and not empty")
        if self._secret_id is not None and not self._secret_id.sendable:
            raise ConfigurationError("secret_id (VAULT_SECRET_ID) must be a printable text, and not empty")
        if self._secret_id is not None and self._file is not None:
            raise ConfigurationError("give secret_id (VAULT_SECRET_ID) or secret_id_file, not both")

    @classmethod
    def from_env(cls, *, mount_point: str = "approle") -> AppRole:
        """
        Take ``VAULT_ROLE_ID`` and ``VAULT_SECRET_ID`` or ``VAULT_SECRET_ID_FILE`` (``BAO_…`` first), now.
        """
        if not variable("ROLE_ID"):
            raise ConfigurationError("no role_id: set VAULT_ROLE_ID, and VAULT_SECRET_ID or VAULT_SECRET_ID_FILE")
        return cls(
            variable("ROLE_ID") or "",
            variable("SECRET_ID") or None,
            secret_id_file=variable("SECRET_ID_FILE") or None,
            mount_point=mount_point,
        )

    def login(self, client: LoginClient) -> Grant:
        """
        Log in with the role_id and what the file holds now.
        """
        body = {"role_id": self._role_id}
        secret_id = self._secret_id if self._file is None else self._read(self._file)
        if secret_id is not None:
            body["secret_id"] = secret_id
        try:
            return client.login(self._path, body)
        except VaultDenied as error:
            if self._file is not None and error.retry_after is not None:
                # The file may be rewritten, so look again soon; it is `client` that holds back the same secret_id.
                error.retry_after = min(error.retry_after, _LOOK_AGAIN)
            raise

    @staticmethod
    def _read(file: Path) -> Secret:
        try:
            secret_id = Secret(file.read_text(encoding="utf-8").strip())
        except (OSError, ValueError) as error:
            # A decoding error quotes the bytes of the file.
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
        else:
            if secret_id.sendable:
                return secret_id
            reason = "it is empty, or not one line of text"
        raise VaultDenied(f"secret_id_file {str(file)!r} cannot be used: {reason}", status=None)

    def __repr__(self) -> str:
        return f"AppRole(<secret>, path={self._path!r})"
