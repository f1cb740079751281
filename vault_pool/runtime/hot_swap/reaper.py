"""
The thread that lets retired generations finish.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import Any

from vault_pool.runtime.hot_swap.generation import Generation, GenerationPool
from vault_pool.runtime.hot_swap.tracking import dismiss

logger = logging.getLogger("vault_pool.pool")

#: How long ``close()`` of a retired pool waits for each of its threads, in seconds. It fails the clients that queue
#: only after that, and one that hangs in a connect takes all of it; with much less it warns of threads that are well.
CLOSE_TIMEOUT = 0.03
#: The pause between the closings of two idle connections.
PACE = 0.01
#: How often, in seconds, the reaper counts the connections of a generation that is being used up.
RECOUNT = 0.05


class Reaper:
    """
    Close retired pools, and tell when their last connection is closed.

    Its thread lives while a generation is retiring. Thread-safe: ``_changed`` guards the list of generations and
    the thread; pools and connections are closed outside it, and never by one of the pool's own workers.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition(threading.Lock())
        self._arrived: list[tuple[Generation[Any], float]] = []
        self._retiring: dict[Generation[Any], float] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def retire(self, generation: Generation[Any], timeout: float) -> None:
        """
        Close the pool of *generation*, which has begun retiring, and its connections as they come back.

        After *timeout* seconds a warning names who still holds one.
        """
        with self._changed:
            self._arrived.append((generation, monotonic() + timeout))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"{self._name}-reaper", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def retiring(self) -> list[Generation[Any]]:
        """
        Return the generations that are not finished.
        """
        with self._changed:
            return [generation for generation, _ in self._arrived] + list(self._retiring)

    def close(self, timeout: float) -> None:
        """
        Stop waiting for connections that are out, and wait up to *timeout* seconds for the thread to end.

        Connections that are still out are closed by their pools when they come back.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    # --- The thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (arrived := self._wait()) is not None:
            for generation, deadline in arrived:
                _close_pool(generation)
                with self._changed:
                    self._retiring[generation] = deadline
            for generation in list(self._retiring):
                self._look_after(generation)

    def _wait(self) -> list[tuple[Generation[Any], float]] | None:
        with self._changed:
            if self._closed or not (self._arrived or self._retiring):
                self._thread = None
                return None
            if not self._arrived:
                pacing = any(generation.leftovers for generation in self._retiring)
                self._changed.wait(PACE if pacing else RECOUNT)
            arrived, self._arrived = self._arrived, []
            return arrived

    def _look_after(self, generation: Generation[Any]) -> None:
        if generation.leftovers:
            dismiss(generation.leftovers.pop())
        if not generation.leftovers:
            generation.reclaim()
        if generation.live() == 0 and generation.connecting == 0:
            with self._changed:
                del self._retiring[generation]
            generation.finish()
        elif monotonic() >= self._retiring[generation]:
            self._retiring[generation] = float("inf")
            self.complain(generation)

    def complain(self, generation: Generation[Any]) -> None:
        """
        Name in the log who still holds connections of *generation*.
        """
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        now = monotonic()
        holders = ", ".join(
            f"thread {names.get(ident, ident)} for {now - since:.1f} s" for since, ident in generation.loans()
        )
        logger.warning(
            "%s: generation %d is past its retire timeout and still has %d connection(s) out: %s",
            self._name,
            generation.number,
            generation.live(),
            holders or "lent outside of this pool",
        )


def _close_pool(generation: Generation[Any]) -> None:
    pool = generation.pool
    if isinstance(pool, GenerationPool):
        pool.deferring = threading.get_ident()
        try:
            pool.close(timeout=CLOSE_TIMEOUT)
        finally:
            pool.deferring = None
    else:
        pool.close(timeout=CLOSE_TIMEOUT)
