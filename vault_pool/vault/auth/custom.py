"""
A login that the application brings along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vault_pool.errors import ConfigurationError, VaultDenied, VaultError, VaultPoolError
from vault_pool.vault.answer import Answer, Grant, grant_of_login
from vault_pool.vault.login import LoginClient
from vault_pool.vault.secret import Secret


class CustomLogin:
    """
    A login by *login*, which is called with a `LoginClient` whenever a token is needed, one call at a time.

    It returns what ``client.login(path, body)`` returned, or Vault's answer to a login made by other means (the whole
    or its ``auth`` block): such tokens are renewed, and revoked when they are no longer needed. Or it returns a token:
    that stays the application's, and is never revoked. *name* stands in logs.

    An error that it raises and that is not of this library is reported by its type alone, since it may hold a secret.
    """

    name = "?"

    def __init__(self, login: Callable[[LoginClient], Any], *, name: str = "custom login") -> None:
        if not callable(login):
            raise ConfigurationError("login must be callable: it is called with a LoginClient and returns a token")
        self._login = login
        self.name = name

    def login(self, client: LoginClient) -> Grant:
        """
        Call the application's login.
        """
        outcome = self._called(client)
        if isinstance(outcome, VaultPoolError):
            raise outcome
        if isinstance(outcome, Secret):
            return client.lookup(outcome)
        return outcome

    def _called(self, client: LoginClient) -> Grant | Secret | VaultPoolError:
        """
        Return what came of the call. Raises nothing: its locals may hold a token in clear.
        """
        try:
            made = self._login(client)
        except VaultPoolError as error:
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not leave
            return VaultError(f"the login {self.name!r} failed with {type(error).__name__}", retryable=True)
        if isinstance(made, Grant):
            return made
        if isinstance(made, str) and Secret(made).sendable:
            return Secret(made)
        if isinstance(made, Mapping):
            auth = made.get("auth") if isinstance(made.get("auth"), Mapping) else made
            grant = grant_of_login(Answer(status=200, body={"auth": auth}))
            if grant is not None:
                return grant
        return VaultDenied(
            f"the login {self.name!r} returned neither a token nor the answer to a login, but {type(made).__name__}",
            status=None,
        )

    def __repr__(self) -> str:
        return f"CustomLogin({self.name!r})"
