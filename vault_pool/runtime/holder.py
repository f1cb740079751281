"""
What the watcher of a source needs of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

from vault_pool.core.lease import Credential
from vault_pool.events import Event


class Holder(Protocol):
    """
    A pool that lives by the credentials of a source.

    Only `prepare`, `discard` and `inquire` may block. The others are called with the watcher's lock held, and must call
    neither the watcher nor the application.
    """

    @property
    def lane(self) -> Hashable:
        """
        What its database may hang on.
        """

    def prepare(self, credential: Credential) -> Any:
        """
        Return an open and proven generation for *credential*, or raise `PoolError`.
        """

    def discard(self, prepared: Any) -> None:
        """
        Close what `prepare` returned and nobody installed.
        """

    def install(self, prepared: Any, on_finished: Callable[[], None]) -> int | None:
        """
        Replace the current generation; return the new one's number, or None where the holder is closed.

        *on_finished* is called once the last connection of the generation before is closed; at once if there was none.
        """

    def inquire(self) -> None:
        """
        Ask an idle session, if there is one, whether its role still exists.
        """

    @property
    def closed(self) -> bool:
        """
        Whether it needs no credentials any more.
        """

    def vacate(self) -> None:
        """
        Retire the current generation, whose credential is lost, without a successor: clients wait.
        """

    def expect(self, deadline: float) -> None:
        """
        Take note of the instant at which the credential in force ends, as far as is known.
        """

    def lapse(self, term: float) -> None:
        """
        Take note that the lease, which was granted for *term* seconds, has ended without a successor.
        """

    def end(self, credential: Credential, *, revoked: bool) -> None:
        """
        Take note that the lease of retired connections by *credential* is over, *revoked* or at its time.
        """

    def report(self, error: Exception | None, *, attempt: bool = False) -> None:
        """
        Take note that there is trouble, or (None) that there is none. *attempt*: a rotation was tried and failed.
        """

    def emit(self, event: Event) -> None:
        """
        Tell the application what happened.
        """
