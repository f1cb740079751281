"""
When to act on a lease.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

_LARGEST_EXPONENT = 64
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalPolicy:
    """
    The timing rules of a lease, as numbers.

    *renew_at* is the fraction of the remaining term after which to renew, *jitter* the part of it by which
    the moment is spread towards the earlier side (earlier only, so that no spread can make it too late).
    *retire_timeout* is how many seconds an old generation should have to finish before its lease ends.
    *backoff_base* and *backoff_cap* (seconds) bound the pause after the n-th failure in a row.
    *requests_per_hour* and *burst* bound what one lease may cost Vault, whatever Vault answers.
    *request_timeout* is the number of seconds after which a request that was sent is looked at again.
    Raises ValueError for numbers that cannot work; the text names the field.
    """

    renew_at: float = 2 / 3
    jitter: float = 0.1
    retire_timeout: float = 30.0
    backoff_base: float = 0.5
    backoff_cap: float = 30.0
    requests_per_hour: float = 7200.0
    burst: int = 30
    request_timeout: float = 60.0

    #: A lease is not replaced before this fraction of it has passed.
    LEAST_SERVED: ClassVar[float] = 0.5
    #: The part of a lease that may be set aside for retiring.
    MOST_RESERVED: ClassVar[float] = 1 / 3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise ValueError(f"RenewalPolicy.{field.name} must be a number of at least 0, not {value!r}")
        for name in ("backoff_base", "requests_per_hour", "request_timeout"):
            if getattr(self, name) == 0:
                raise ValueError(f"RenewalPolicy.{name} must be more than 0")
        if self.burst < 1:
            raise ValueError("RenewalPolicy.burst must be at least 1: nothing would ever be sent")
        if self.backoff_cap < self.backoff_base:
            raise ValueError("RenewalPolicy.backoff_cap must be at least backoff_base")
        if self.renew_at > 1 - self.MOST_RESERVED + _ROUNDING:
            raise ValueError("RenewalPolicy.renew_at must be at most 2/3: the last third is for outages and retiring")
        if self.fraction(1.0) < self.LEAST_SERVED - _ROUNDING:
            raise ValueError(
                "RenewalPolicy.renew_at must be at least 0.5 also after jitter was taken from it: "
                "a lease is not replaced before half of it has passed"
            )

    def fraction(self, draw: float) -> float:
        """
        Return the fraction of a term after which to act, for a random *draw* out of [0, 1).
        """
        return self.renew_at * (1 - self.jitter * draw)

    def reserve(self, term: float) -> float:
        """
        Return how many of *term* seconds are kept for retiring: at most a third.
        """
        return max(0.0, min(self.retire_timeout, term * self.MOST_RESERVED))

    def backoff(self, failures: int, draw: float) -> float:
        """
        Return the pause after *failures* failures in a row: capped, exponential, full jitter.
        """
        ceiling = self.backoff_base * 2.0 ** min(failures - 1, _LARGEST_EXPONENT)
        return draw * min(self.backoff_cap, ceiling)

    def patience(self, draw: float) -> float:
        """
        Return the pause after a failure that somebody has to mend first: the slower half of the slowest pace.
        """
        return self.backoff_cap * (1 + draw) / 2

    @property
    def refill(self) -> float:
        """
        The number of requests per second that the allowance grows by.
        """
        return self.requests_per_hour / 3600
