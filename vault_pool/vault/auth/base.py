"""
What a login is.
"""

from __future__ import annotations

from typing import Protocol

from vault_pool.vault.answer import Grant
from vault_pool.vault.login import LoginClient


class Auth(Protocol):
    """
    A way to come by a token.
    """

    @property
    def name(self) -> str:
        """
        The words by which logs and errors name this login; no secret.
        """

    def login(self, client: LoginClient) -> Grant:
        """
        Return a token that lives, by way of *client*. Called by one thread at a time; raises `VaultPoolError` only.
        """
