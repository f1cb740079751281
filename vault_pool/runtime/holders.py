"""
The pools that live by one lease.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from vault_pool.core.lease import Credential
from vault_pool.events import Event
from vault_pool.runtime.holder import Holder


class Holders:
    """
    All holders of one watcher, known weakly, and by which lease each of them is served.

    Guarded by the watcher's lock, which its callers hold, but for `prove` and `discard`: those block.
    """

    def __init__(self) -> None:
        self._refs: list[weakref.ref[Any]] = []
        self._served: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def __bool__(self) -> bool:
        return bool(self._refs)

    def add(self, holder: Holder) -> None:
        """
        Count *holder* among them.
        """
        self._refs.append(weakref.ref(holder))

    def remove(self, holder: Holder) -> None:
        """
        Forget *holder*, and those that are gone.
        """
        self._refs = [ref for ref in self._refs if ref() is not None and ref() is not holder]
        self._served.pop(holder, None)

    def alive(self) -> list[Holder]:
        """
        Return those that are still there.
        """
        return [holder for ref in self._refs if (holder := ref()) is not None]

    # --- Credentials ---------------------------------------------------------------------------------------

    def prove(self, credential: Credential, *, together: bool) -> tuple[list[tuple[Holder, Any]], Exception | None]:
        """
        Return what the holders have prepared, and why one has not; *together*: then the others need not try.
        """
        prepared: list[tuple[Holder, Any]] = []
        problem: Exception | None = None
        for holder in self.alive():
            generation, error = _prepared(holder, credential)
            if error is None:
                prepared.append((holder, generation))
            elif not holder.closed:
                # On one that was closed meanwhile the others do not depend.
                holder.report(error)
                problem = error
                if together:
                    break
        return prepared, problem

    def discard(self, prepared: list[tuple[Holder, Any]]) -> None:
        """
        Give up what was prepared.
        """
        for holder, generation in prepared:
            holder.discard(generation)

    def install(self, prepared: list[tuple[Holder, Any]], lease_id: str, on_finished: Callable[[], None]) -> int | None:
        """
        Have all swap to what they have prepared, and return the number of a new generation, if there is one.

        Whoever has prepared nothing is a late comer from now on.
        """
        number = None
        self._served.clear()
        for holder, generation in prepared:
            self._served[holder] = lease_id
            number = holder.install(generation, on_finished) or number
        return number

    def late_comers(self, lease_id: str) -> list[Holder]:
        """
        Return those that are served by no lease; from now on they count as served by this one.
        """
        late = [holder for holder in self.alive() if holder not in self._served and not holder.closed]
        self._served.update((holder, lease_id) for holder in late)
        return late

    def is_served(self, holder: Holder, lease_id: str) -> bool:
        """
        Tell whether *holder* counts as served by this lease.
        """
        return self._served.get(holder) == lease_id

    def not_served(self, holder: Holder) -> None:
        """
        Take note that *holder* could not be served.
        """
        self._served.pop(holder, None)

    def vacate(self) -> None:
        """
        Have all that are served retire what they have.
        """
        for holder in self.alive():
            if self._served.pop(holder, None) is not None:
                holder.vacate()

    # --- Telling -------------------------------------------------------------------------------------------

    def report(self, error: Exception | None, *, attempt: bool = False) -> None:
        """
        Tell all that there is trouble, or (None) that there is none.
        """
        for holder in self.alive():
            holder.report(error, attempt=attempt)

    def emit(self, event: Event) -> None:
        """
        Tell the applications of all.
        """
        for holder in self.alive():
            holder.emit(event)


def _prepared(holder: Holder, credential: Credential) -> tuple[Any, Exception | None]:
    """
    Return what *holder* has prepared, or why it could not.
    """
    try:
        return holder.prepare(credential), None
    except Exception as error:  # noqa: BLE001 - the caller raises it, when all is in order
        return None, error
