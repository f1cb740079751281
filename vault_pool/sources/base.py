"""
What a source of credentials is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from vault_pool.core.lease import Credential, Lease
from vault_pool.core.machine import Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """
    A credential together with the lease that it lives by.
    """

    credential: Credential
    lease: Lease


class Source(Protocol):
    """
    A place that hands out database credentials.

    The four requests block, are made for one lease at a time, from any thread, and raise
    nothing but `VaultPoolError`. Instants are on the clock that *now* was read from, which is
    the instant before the request is sent.
    """

    @property
    def name(self) -> str:
        """
        The words by which logs and errors name this source; no secret.
        """

    @property
    def lane(self) -> Hashable:
        """
        What requests of this source may hang on: sources of one server share a lane.
        """

    def read(self, now: float) -> Issued:
        """
        Return a new credential. Never a repetition of a read whose answer was lost: each makes a database role.
        """

    def renew(self, lease: Lease, now: float) -> Lease:
        """
        Return *lease* with more time, or raise `LeaseLost`.
        """

    def revoke(self, lease: Lease) -> None:
        """
        End *lease*. Ending a lease that is over already is no error.
        """

    def owner(self, lease: Lease) -> Owner:
        """
        Return what is known of the token that issued *lease*. No I/O.
        """

    def attach(self, runtime: Any, wake: Callable[[], None]) -> None:
        """
        Begin upkeep (of the token) on *runtime*, the `Runtime` of this process.

        *wake* is called, from any thread, whenever an owner may have changed. No I/O.
        """

    def detach(self, wake: Callable[[], None]) -> None:
        """
        End what `attach` began with the same *wake*; the last one out closes the session with Vault. May do I/O.
        """
