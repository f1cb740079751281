"""
Doing in time what a machine decides, and telling others of it.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from typing import Any

from vault_pool.core.machine import Action, Wait


class Upkeep:
    """
    Calls *act* on a worker of the runtime when *decide* says that there is something to do. Thread-safe.

    *decide* returns None while nothing is to be kept up. Neither may be called with the caller's locks held.
    """

    def __init__(self, decide: Callable[[], Action | None], act: Callable[[Action], None]) -> None:
        self._decide = decide
        self._act = act
        self._lock = threading.RLock()  # guards everything below; the runtime only writes calls down
        self._runtime: Any = None
        self._handle: Any = None
        self._listeners: list[Callable[[], None]] = []
        self._deserted = False

    def attach(self, runtime: Any, wake: Callable[[], None]) -> None:
        """
        Begin on *runtime*, unless it has begun; *wake* is called by `announce`.
        """
        with self._lock:
            self._listeners.append(wake)
            self._deserted = False
            if self._runtime is None:
                self._runtime = runtime
        self.arm()

    def detach(self, wake: Callable[[], None], last: Callable[[], None]) -> None:
        """
        Forget *wake*; if it was the last, everything ends, and *last* is called before anybody can attach again.
        """
        with self._lock:
            if wake in self._listeners:
                self._listeners.remove(wake)
            if not self._listeners:
                self.stop()
                self._deserted = True
                last()

    def stop(self) -> None:
        """
        Forget all that was begun.
        """
        with self._lock:
            if self._handle is not None:
                self._handle.cancel()
            self._runtime = self._handle = None
            self._listeners = []
            self._deserted = False

    def is_deserted(self) -> bool:
        """
        Whether the last one has left, and nobody came since.
        """
        return self._deserted

    def arm(self) -> None:
        """
        Have *act* called when it is next due.
        """
        with self._lock:
            if self._handle is not None:
                self._handle.cancel()
                self._handle = None
            if self._runtime is None:
                return
            match self._decide():
                case None:
                    pass
                case Wait(until):
                    if until < math.inf:
                        self._handle = self._runtime.call_at(until, self._submit)
                case _:
                    self._submit()

    def announce(self) -> None:
        """
        Call every listener.
        """
        with self._lock:
            listeners = list(self._listeners)
        for wake in listeners:
            wake()

    def draw(self) -> float:
        """
        Return a random number in [0, 1).
        """
        runtime = self._runtime
        return random.random() if runtime is None else float(runtime.random())  # noqa: S311 - it spreads, no more

    def _submit(self) -> None:
        with self._lock:
            if self._runtime is not None:
                # A lane of its own: requests for leases that hang must not hold up the token they hang on.
                self._runtime.submit((self, "token"), self._work)

    def _work(self) -> None:
        action = self._decide()
        try:
            if action is not None and not isinstance(action, Wait):
                self._act(action)
        finally:
            self.arm()
