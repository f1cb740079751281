"""
How long a lease or a token lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from vault_pool.devserver.errors import BackendError
from vault_pool.devserver.values import show_duration

# vault: the system's default_lease_ttl and max_lease_ttl.
SYSTEM_TTL = 768 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    The default and the greatest TTL of a mount, in seconds.
    """

    default: int = SYSTEM_TTL
    maximum: int = SYSTEM_TTL


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """
    What a role or a token wants, in seconds; 0 = nothing said.
    """

    ttl: int = 0
    max_ttl: int = 0
    period: int = 0
    explicit_max_ttl: int = 0


def calculate_ttl(
    limits: Limits, wish: Wish, *, now: float, start: float | None = None, increment: int = 0
) -> tuple[int, list[str]]:
    """
    Return the TTL in seconds and the warnings; raise BackendError past the greatest TTL.

    vault: ``framework.CalculateTTL``. *now* and *start* are both cut to whole seconds, so that "past the max TTL" may
    come up to a second early.
    """
    cut_now = floor(now)
    cut_start = cut_now if start is None else floor(start)
    maximum = min([limits.maximum, *(limit for limit in (wish.max_ttl, wish.explicit_max_ttl) if limit > 0)])
    warnings: list[str] = []
    if wish.period > 0:
        ttl = min(wish.period, maximum)
        if ttl < wish.period:
            warnings.append(
                f'period of "{show_duration(wish.period)}" exceeded the effective max_ttl of '
                f'"{show_duration(maximum)}"; period value is capped accordingly'
            )
        if wish.explicit_max_ttl == 0:
            return ttl, warnings
        remaining = cut_start + wish.explicit_max_ttl - cut_now
    else:
        ttl = increment or wish.ttl or limits.default
        remaining = cut_start + maximum - cut_now
    if remaining <= 0:
        raise BackendError("past the max TTL, cannot renew")
    if ttl > remaining:
        warnings.append(
            f'TTL of "{show_duration(ttl)}" exceeded the effective max_ttl of "{show_duration(remaining)}"; '
            "TTL value is capped accordingly"
        )
    return min(ttl, remaining), warnings
