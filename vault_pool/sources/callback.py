"""
A credential from a function of the application.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vault_pool.core.lease import Credential
from vault_pool.errors import ConfigurationError, SourceError
from vault_pool.sources.base import Issued
from vault_pool.sources.polled import LEAST_INTERVAL, Polled, checked_interval, sound_credential
from vault_pool.vault.answer import seconds

#: The part of a credential's time after which there should be another.
_RENEW_AT = 0.6
_PAIR, _TRIPLE = 2, 3


class Callback(Polled):
    """
    A source that calls *read* every *interval* seconds, spread by a tenth, on a worker thread.

    It returns a `Credential`, or a user and a password, or these and the seconds for which one can log in with them:
    then it is called again when about 0.6 of them have passed, instead of after *interval*. What it raises, its type
    alone is told: the text may hold a secret. *name* is what logs and errors call this source.

    Thread-safe as far as *read* is. `Callback.read` raises `SourceError` only.
    """

    def __init__(
        self,
        read: Callable[[], Credential | tuple[str, str] | tuple[str, str, float]],
        *,
        interval: float = 60.0,
        name: str | None = None,
    ) -> None:
        if not callable(read):
            raise ConfigurationError("read must be a function that returns a user and a password")
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigurationError(f"name must be a text, and not empty, not {name!r}")
        super().__init__(name or str(getattr(read, "__qualname__", type(read).__name__)))
        self._read = read
        self._interval = checked_interval(interval, LEAST_INTERVAL)

    def read(self, now: float) -> Issued:
        """
        Return what the application's function returns.
        """
        outcome = self._outcome()
        if isinstance(outcome, str):
            raise SourceError(f"{self._name} {outcome}")
        credential, lifetime = outcome
        return self._polled(credential, now, self._interval if lifetime is None else lifetime * _RENEW_AT)

    def _outcome(self) -> tuple[Credential, float | None] | str:
        """
        Return a credential and its seconds, or what is wrong. Raises nothing: the locals here hold the password.
        """
        try:
            return _understood(self._read())
        except Exception as error:  # noqa: BLE001 - the application may raise anything
            return f"raised {type(error).__name__}"


def _understood(found: Any) -> tuple[Credential, float | None] | str:
    if isinstance(found, Credential):
        found = (found.user, found.password)
    words = found if isinstance(found, (tuple, list)) else ()
    credential = sound_credential(*words[:2]) if len(words) in (_PAIR, _TRIPLE) else None
    if credential is None:
        return f"returned {type(found).__name__}, not a Credential, or a user and a password"
    if len(words) == _PAIR:
        return credential, None
    lifetime = seconds(words[2])
    return (credential, lifetime) if lifetime else "returned a time to live that is no number of seconds"
