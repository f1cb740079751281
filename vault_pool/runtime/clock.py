"""
The clock that leases are measured by.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
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

    def __init__(self) -> None:
        clock_id = getattr(time, "CLOCK_BOOTTIME", None)
        # No method in between: each checkout asks.
        self.now: Callable[[], float] = (
            time.monotonic if clock_id is None else functools.partial(time.clock_gettime, clock_id)
        )
