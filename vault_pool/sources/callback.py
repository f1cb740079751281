"""
A credential from a function of the application.
"""

from __future__ import annotations

from collections.abc import Callable

from vault_pool.core.lease import Credential
from vault_pool.errors import ConfigurationError, SourceError
from vault_pool.sources.base import Issued
from vault_pool.sources.polled import Polled, checked_interval

_LEAST_INTERVAL = 0.1
_PAIR = 2


class Callback(Polled):
    """
    A source that calls *read* every *interval* seconds, spread by a tenth, on a worker thread.

    It returns a `Credential`, or a user and a password. What it raises, its type alone is told: the text may hold a
    secret. *name* is what logs and errors call this source. `Callback.read` raises `SourceError` only.
    """

    def __init__(
        self, read: Callable[[], Credential | tuple[str, str]], *, interval: float = 60.0, name: str | None = None
    ) -> None:
        if not callable(read):
            raise ConfigurationError("read must be a function that returns a user and a password")
        super().__init__(name or str(getattr(read, "__qualname__", type(read).__name__)))
        self._read = read
        self._interval = checked_interval(interval, _LEAST_INTERVAL)

    def read(self, now: float) -> Issued:
        """
        Return what the application's function returns.
        """
        outcome = self._outcome()
        if isinstance(outcome, str):
            raise SourceError(f"{self._name} {outcome}")
        return self._polled(outcome, now, self._interval)

    def _outcome(self) -> Credential | str:
        """
        Return a credential, or what is wrong. Raises nothing: the locals here hold the password in clear.
        """
        try:
            found = self._read()
        except Exception as error:  # noqa: BLE001 - the application may raise anything
            return f"raised {type(error).__name__}"
        if isinstance(found, Credential):
            return found
        if isinstance(found, (tuple, list)) and len(found) == _PAIR and all(isinstance(one, str) for one in found):
            return Credential(*found)
        return f"returned {type(found).__name__}, not a Credential or a pair of user and password"
