"""
A limit below all logic: what Vault may be asked at most, whatever goes wrong above.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

# A process that opens a pool needs four requests at once (log in, look up, read, look up the lease), one that
# opens a dozen pools some fifty. Afterwards a lease costs two requests an hour, so that 20 a second carry
# tens of thousands of leases, while a Vault node answers some thousand a second: no bug of one process is an outage.
_BURST = 50.0
_RATE = 20.0


class RateLimiter:
    """
    A token bucket. Thread-safe; never sleeps.
    """

    def __init__(self, clock: Callable[[], float], *, burst: float = _BURST, rate: float = _RATE) -> None:
        self._clock = clock
        self._burst = burst
        self._rate = rate
        self._lock = threading.Lock()  # guards _level and _at
        self._level = burst
        self._at = clock()

    def take(self) -> float:
        """
        Take leave for one request: return 0, or the seconds until there is leave again.
        """
        with self._lock:
            now = self._clock()
            self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
            self._at = now
            if self._level >= 1:
                self._level -= 1
                return 0.0
            return (1 - self._level) / self._rate
