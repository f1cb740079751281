"""
Logins with a user's name and password.
"""

from __future__ import annotations

import os
from urllib.parse import quote

from vault_pool.errors import ConfigurationError
from vault_pool.vault.answer import Grant
from vault_pool.vault.auth.material import Material
from vault_pool.vault.login import LoginClient
from vault_pool.vault.paths import checked_mount_point
from vault_pool.vault.secret import Secret


class UserPass:
    """
    A login of Vault's own user *username*; the password is given, or read from *password_file* at each login.

    (Vault documentation, "Userpass auth method".)
    """

    _path = "?"
    name = "userpass"

    def __init__(
        self,
        username: str,
        password: str | None = None,
        *,
        password_file: str | os.PathLike[str] | None = None,
        mount_point: str | None = None,
    ) -> None:
        given = None if password is None else Secret(password)
        del password
        if not isinstance(username, str) or not username.strip() or not username.isprintable():
            raise ConfigurationError(f"username must be a printable text, not {username!r}")
        mount_point = checked_mount_point(
            self.name if mount_point is None else mount_point, f"a {self.name} auth method"
        )
        self._path = f"auth/{mount_point}/login/{quote(username, safe='')}"
        self._material = Material("password", given, password_file, free=True)

    def login(self, client: LoginClient) -> Grant:
        """
        Log in with the password as it is now.
        """
        return client.login(self._path, {"password": self._material.read()}, may_change=self._material.may_change)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<secret>, path={self._path!r})"


class LDAP(UserPass):
    """
    A login of the directory's user *username* (Vault documentation, "LDAP auth method").
    """

    name = "ldap"
