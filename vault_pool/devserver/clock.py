"""
The clocks of the development server: wall clocks, because Vault's arithmetic works on whole seconds of the calendar.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """
    Tells the time as seconds since 1970.
    """

    def now(self) -> float:
        """
        Return the present instant.
        """


class SystemClock:
    """
    The system's clock.
    """

    def now(self) -> float:
        """
        Return the present instant.
        """
        return time.time()


class ManualClock:
    """
    A clock that stands still until it is set.

    A server that was given one does nothing in the background: `DevServer.step()` moves the clock and runs what falls
    due, in order, in the calling thread.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        """
        Return the instant that was set last.
        """
        return self._now

    def set(self, instant: float) -> None:
        """
        Move to *instant*; an earlier one than the present is ignored.
        """
        self._now = max(self._now, instant)
