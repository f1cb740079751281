"""
What there is to see at one moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vault_pool import VaultPool
from vault_pool.cli.demo.feed import Feed, Line
from vault_pool.cli.demo.measurements import SPAN, Histogram, Measurements

#: How many spans of the throughput are shown at most, and over how many the requests per second are averaged.
_SHOWN: Final = 300
_AVERAGED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """
    The median and the 99th percentile, in seconds; None: nothing was measured yet.
    """

    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        """
        Read *histogram*.
        """
        return cls(p50=histogram.quantile(0.5), p99=histogram.quantile(0.99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """
    One moment of the demo. Durations are in seconds.

    *began* is when the load began, an instant; *elapsed* counts from there. *connections* are those of the current
    generation, *retiring* pairs of a generation's number and its connections. *throughput* are requests per span of
    `SPAN`, oldest first, *rotated* the rotations in the same spans.
    """

    began: float
    elapsed: float
    goal: str
    generation: int
    user: str
    phase: str
    expires_in: float
    lease_duration: float
    connections: int
    retiring: Sequence[tuple[int, int]]
    requests: int
    failed: int
    per_second: float
    rotations: int
    around_rotations: Latency
    elsewhere: Latency
    throughput: Sequence[int]
    rotated: Sequence[int]
    lines: Sequence[Line]

    @classmethod
    def of(cls, pool: VaultPool, feed: Feed, measured: Measurements, now: float, goal: str) -> Scene:
        """
        Look at everything, at the instant *now*.
        """
        status = pool.status()
        throughput, rotated = measured.throughput(now, _SHOWN)
        recent = throughput[-_AVERAGED:]
        return cls(
            began=measured.began,
            elapsed=now - measured.began,
            goal=goal,
            generation=status.generation,
            user=status.user or "-",
            phase=status.phase,
            expires_in=max(0.0, status.expires_in or 0.0),
            lease_duration=feed.durations.get(status.lease_id or "", 0.0),
            connections=status.sessions,
            retiring=status.retiring,
            requests=measured.requests,
            failed=measured.failed,
            per_second=sum(recent) / (len(recent) * SPAN) if recent else 0.0,
            rotations=len(measured.rotations),
            around_rotations=Latency.of(measured.in_windows),
            elsewhere=Latency.of(measured.outside),
            throughput=throughput,
            rotated=rotated,
            lines=feed.lines(),
        )
