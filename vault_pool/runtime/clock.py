"""
The clock that leases are measured by.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """
    A source of instants, in seconds from an arbitrary origin, that never runs backwards.
    """

    def now(self) -> float:
        """
        Return the present instant.
        """


class SystemClock:
    """
    The time since boot, including the time for which the machine was suspended, where the system can tell.

    A lease goes on ending while a laptop sleeps or a virtual machine is paused; CLOCK_MONOTONIC stops there
    (clock_gettime(2)), CLOCK_BOOTTIME does not.
    """

    _clock_id = getattr(time, "CLOCK_BOOTTIME", None)

    def now(self) -> float:
        """
        Return the present instant.
        """
        return time.monotonic() if self._clock_id is None else time.clock_gettime(self._clock_id)
