"""
A credential that stays: laptops, and tests without Vault.
"""

from __future__ import annotations

import math
import os

from vault_pool.core.lease import Credential
from vault_pool.errors import ConfigurationError
from vault_pool.sources.base import Issued
from vault_pool.sources.polled import Polled
from vault_pool.vault.secret import Secret


class Fixed(Polled):
    """
    A source whose credential never changes: the same application runs where there is no Vault.

    `VaultPool.rotate` opens a new generation with the same credential.
    """

    def __init__(self, user: str, password: str) -> None:
        secret = Secret(password)
        del password
        if not isinstance(user, str) or not user:
            raise ConfigurationError("user must be the name of a PostgreSQL user")
        if not secret.is_text:
            raise ConfigurationError("password must be a text, and not empty")
        super().__init__(f"the fixed user {user!r}")
        self._credential = Credential(user, secret.reveal())

    @classmethod
    def from_env(cls) -> Fixed:
        """
        Take ``PGUSER`` and ``PGPASSWORD``, as libpq does, now.
        """
        missing = [name for name in ("PGUSER", "PGPASSWORD") if not os.environ.get(name)]
        if missing:
            raise ConfigurationError(f"{' and '.join(missing)} must be set")
        return cls(os.environ["PGUSER"], os.environ["PGPASSWORD"])

    def read(self, now: float) -> Issued:
        """
        Return the credential.
        """
        return self._issued(self._credential, now, math.inf, 0.0)
