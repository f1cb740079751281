"""
What sources without leases have in common: nothing to renew or to revoke, and looks instead of terms.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from vault_pool.core.lease import Credential, Lease
from vault_pool.core.machine import Owner
from vault_pool.errors import ConfigurationError, LeaseLost
from vault_pool.sources.base import Issued
from vault_pool.vault.answer import Answer
from vault_pool.vault.client import Vault

#: The least interval, in seconds, of looks that cost nobody else anything: what the allowance of a lease lets through
#: for long (`RenewalPolicy.requests_per_hour`).
LEAST_INTERVAL = 0.5
#: Looks are spread by this part of the interval, to both sides, so that a fleet does not look in step.
_SPREAD = 0.1


class Polled:
    """
    A source whose credential is looked at again and again, and replaced when it has changed.

    Its credential does not die with the token that it was read with: there is no owner to speak of.
    Looks come from one thread at a time, as the watcher sends them.
    """

    _name = "?"

    def __init__(self, name: str) -> None:
        self._name = name
        self._known: Credential | None = None
        self._version = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        """
        The words by which logs and errors name this source.
        """
        return self._name

    @property
    def lane(self) -> Hashable:
        """
        What looks may hang on.
        """
        return self

    def renew(self, lease: Lease, now: float) -> Lease:  # noqa: ARG002 - the protocol's
        """
        Raise `LeaseLost`: there is no lease to renew.
        """
        raise LeaseLost(f"{self._name} has no lease")

    def revoke(self, lease: Lease) -> None:
        """
        Do nothing: whoever made the credential ends it.
        """

    def owner(self, lease: Lease) -> Owner:  # noqa: ARG002 - the protocol's
        """
        Return an owner without end.
        """
        return Owner()

    def attach(self, runtime: Any, wake: Callable[[], None]) -> None:
        """
        Do nothing: there is no upkeep.
        """

    def detach(self, wake: Callable[[], None]) -> None:
        """
        Do nothing.
        """

    def _issued(self, credential: Credential, now: float, seconds: float, spread: float) -> Issued:
        """
        Return *credential*, to be looked at again after *seconds* and up to *spread* more; it is numbered by change.
        """
        if credential != self._known:
            self._known, self._version = credential, self._version + 1
        lease = Lease.looked_up(f"{self._name}#{self._version}", seconds, now, spread=spread)
        return Issued(credential=credential, lease=lease)

    def _polled(self, credential: Credential, now: float, interval: float) -> Issued:
        return self._issued(credential, now, interval * (1 - _SPREAD), interval * 2 * _SPREAD)


class PolledInVault(Polled):
    """
    A source that looks at a path of Vault.
    """

    def __init__(self, name: str, vault: Vault) -> None:
        if not isinstance(vault, Vault):
            raise ConfigurationError("vault must be a Vault")
        super().__init__(name)
        self._vault = vault

    @property
    def lane(self) -> Hashable:
        """
        The Vault that requests may hang on.
        """
        return self._vault

    def attach(self, runtime: Any, wake: Callable[[], None]) -> None:
        """
        Begin upkeep of the token.
        """
        self._vault.attach(runtime, wake)

    def detach(self, wake: Callable[[], None]) -> None:
        """
        End what `attach` began with the same *wake*.
        """
        self._vault.detach(wake)


def credential_of(answer: Answer) -> Credential | None:
    """
    Return the credential that Vault's database engine put into *answer*, or None. Raises nothing.
    """
    return credential_in(answer.data, "username", "password")


def credential_in(data: Any, user_field: str, password_field: str) -> Credential | None:
    """
    Return the credential in the fields *data*, or None. Raises nothing: its locals hold the password in clear.
    """
    if not isinstance(data, dict):
        return None
    return sound_credential(data.get(user_field), data.get(password_field))


def sound_credential(user: object, password: object) -> Credential | None:
    """
    Return *user* and *password* as a credential, or None where one of them is no text, or empty. Raises nothing.
    """
    if isinstance(user, str) and isinstance(password, str) and user and password:
        return Credential(user, password)
    return None


def checked_field(setting: str, value: object) -> str:
    """
    Return *value*, the name of a field; raise `ConfigurationError` naming *setting* otherwise.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{setting} must be the name of a field, not {value!r}")
    return value


def checked_interval(value: object, least: float) -> float:
    """
    Return *value* in seconds; raise `ConfigurationError` for what is no number, or less than *least*.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
        raise ConfigurationError(f"interval must be a number of seconds, at least {least:g}, not {value!r}")
    return float(value)
