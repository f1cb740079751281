"""
What happened to the pool, in words.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from vault_pool.events import (
    Event,
    GenerationRetired,
    LeaseLapsed,
    LeaseLost,
    LeaseRenewed,
    LeaseRevoked,
    PoolReplaced,
    RenewalFailed,
    RotationFailed,
)

_KEPT: Final = 100


class Line(NamedTuple):
    """
    One thing that happened; *at* is an instant of `time.monotonic`, *number* counts from 1.
    """

    number: int
    at: float
    text: str
    grave: bool = False


class Feed(logging.Handler):
    """
    Listens to a pool's events, and to the warnings of every logger once it is added to the root logger. Thread-safe.

    *rotated* is called with the instant of each rotation.
    """

    def __init__(self, rotated: Callable[[float], None]) -> None:
        super().__init__(logging.WARNING)
        self._rotated = rotated
        self._number = itertools.count(1)
        self._lines: deque[Line] = deque(maxlen=_KEPT)
        self._guard = threading.Lock()
        self._generations: dict[str, int] = {}
        self.users: dict[int, str] = {}
        self.durations: dict[str, float] = {}
        self.renewals = 0

    def lines(self, after: int = 0) -> list[Line]:
        """
        Return the last lines, oldest first; only those numbered higher than *after*.
        """
        with self._guard:
            return [line for line in self._lines if line.number > after]

    def emit(self, record: logging.LogRecord) -> None:
        """
        Take a warning of a logger.
        """
        self.say(f"{record.name}: {record.getMessage()}", grave=True)

    def say(self, text: str, *, grave: bool = False) -> None:
        """
        Add a line.
        """
        with self._guard:
            self._lines.append(Line(next(self._number), time.monotonic(), text, grave))

    def listen(self, event: Event) -> None:
        """
        Be a pool's `on_event`.
        """
        match event:
            case PoolReplaced():
                self._replaced(event)
            case LeaseRenewed():
                self.renewals += 1
                self.durations[event.lease_id] = event.duration
                why = ", less than asked for: that is max_ttl" if event.truncated else ""
                self.say(f"lease {self._number_of(event.lease_id)} renewed for {event.duration:g} s{why}")
            case GenerationRetired():
                self.say(f"generation {event.generation} closed its last connection after {event.seconds:.1f} s")
            case LeaseRevoked():
                self.say(f"lease {self._number_of(event.lease_id)} revoked: Vault has dropped its database role")
                self.durations.pop(event.lease_id, None)
            case RotationFailed() | RenewalFailed():
                self.say(f"{type(event).__name__}: {event.error}", grave=True)
            case LeaseLost() | LeaseLapsed():
                self.say(f"{type(event).__name__}: lease {self._number_of(event.lease_id)}", grave=True)
            case _:
                self.say(type(event).__name__)

    def _replaced(self, event: PoolReplaced) -> None:
        first = not self._generations
        self._generations[event.lease_id] = event.generation
        self.durations[event.lease_id] = event.duration
        self.users[event.generation] = event.user
        if first:
            self.say(f"generation 1 serves, with a lease of {event.duration:g} s")
            return
        self._rotated(time.monotonic())
        rotation = len(self._generations) - 1
        self.say(f"rotation {rotation}: generation {event.generation} serves, made in {event.seconds * 1000:.0f} ms")

    def _number_of(self, lease_id: str) -> str:
        return str(self._generations.get(lease_id, "?"))
