"""
Tokens that somebody else logged in for: they are never revoked by us.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from vault_pool.errors import ConfigurationError, VaultDenied
from vault_pool.vault.answer import Grant
from vault_pool.vault.auth.material import Material
from vault_pool.vault.environment import variable
from vault_pool.vault.login import LoginClient
from vault_pool.vault.secret import Secret

_FILE_OF_THE_COMMAND_LINE = "~/.vault-token"


class Token:
    """
    A token that the application was given, and that stays its own: it is renewed where it can be, never revoked.

    *token_file* is a file that somebody rewrites, such as the sink of Vault Agent (a plain one: neither wrapped nor
    encrypted). It is read again when its token is refused or near its end.
    """

    name = "token"

    def __init__(self, token: str | None = None, *, token_file: str | os.PathLike[str] | None = None) -> None:
        given = None if token is None else Secret(token)
        del token
        self._material = Material("token", given, token_file)

    @classmethod
    def from_env(cls) -> Token:
        """
        Take the token from ``VAULT_TOKEN`` (``BAO_TOKEN``), else name the file in ``VAULT_TOKEN_PATH``, which is
        ``~/.vault-token`` unless set: where ``vault login`` leaves it.
        """
        if variable("TOKEN"):
            return cls(variable("TOKEN"))
        file = file_of_the_command_line()
        if file is None:
            raise ConfigurationError("no token: set VAULT_TOKEN (or BAO_TOKEN), or log in with `vault login`")
        return cls(token_file=file)

    def login(self, client: LoginClient) -> Grant:
        """
        Look the token up.
        """
        return client.lookup(self._material.read())

    def __repr__(self) -> str:
        return "Token(<secret>)"


class ClientToken:
    """
    The token of an hvac client, read from it at each login: the application may have replaced it.
    """

    name = "hvac client"

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


class AgentToken:
    """
    No token at all: the Vault Agent or Vault Proxy between us and Vault adds its own to each request.

    (Vault documentation, "Vault Agent", ``use_auto_auth_token``.) The agent renews it; here it is only looked at.
    """

    name = "agent"

    def login(self, client: LoginClient) -> Grant:
        """
        Look up what the agent adds.
        """
        return replace(client.lookup(None), renewable=False)

    def __repr__(self) -> str:
        return "AgentToken()"


def file_of_the_command_line() -> Path | None:
    """
    Return the file in which ``vault login`` and ``bao login`` leave a token, None where there is none.
    """
    file = Path(variable("TOKEN_PATH") or _FILE_OF_THE_COMMAND_LINE).expanduser()
    return file if variable("TOKEN_PATH") or file.is_file() else None
