"""
What a demo comes to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vault_pool.cli.demo.measurements import WINDOW, Histogram, Measurements
from vault_pool.cli.demo.stage import DEFAULT_TTL, MAX_SIZE, MAX_TTL, OVERLAP


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    The figures of a run, under the names that ``--json`` prints. `…_ms` are milliseconds; None: nothing to measure.

    *gap_ms* is the median, over windows of *window_seconds* around rotations, of the longest time without an answered
    fast request; *calm_ms* the same of windows without a rotation.
    """

    seconds: float
    requests: int
    failed: int
    failures: dict[str, int]
    rotations: int
    renewals: int
    roles_left: int
    leases_left: int
    peak_connections: int
    connection_limit: int
    window_seconds: float
    gap_ms: float | None
    calm_ms: float | None
    rotating_p50_ms: float | None
    rotating_p99_ms: float | None
    calm_p50_ms: float | None
    calm_p99_ms: float | None

    @classmethod
    def of(cls, measured: Measurements, *, seconds: float, renewals: int, roles: int, leases: int, peak: int) -> Result:
        """
        Sum up a run of *seconds*.
        """
        pauses = measured.pauses()
        rotating, calm = measured.in_windows, measured.outside
        return cls(
            seconds=round(seconds, 1),
            requests=measured.requests,
            failed=measured.failed,
            failures=dict(measured.failures),
            rotations=len(measured.rotations),
            renewals=renewals,
            roles_left=roles,
            leases_left=leases,
            peak_connections=peak,
            connection_limit=MAX_SIZE + OVERLAP,
            window_seconds=WINDOW,
            gap_ms=_ms(pauses.gap),
            calm_ms=_ms(pauses.calm),
            rotating_p50_ms=_quantile(rotating, 0.5),
            rotating_p99_ms=_quantile(rotating, 0.99),
            calm_p50_ms=_quantile(calm, 0.5),
            calm_p99_ms=_quantile(calm, 0.99),
        )

    @property
    def clean(self) -> bool:
        """
        Whether no request failed and nothing was left behind.
        """
        return self.failed == self.roles_left == self.leases_left == 0

    def mapping(self) -> dict[str, Any]:
        """
        Return what ``--json`` prints.
        """
        return asdict(self)

    def lines(self) -> Iterator[tuple[str, str]]:
        """
        Yield the summary for people: a word, and what there is to say about it.
        """
        yield "requests", f"{self.requests:,}, {self.requests / max(self.seconds, 1):,.0f}/s, {self.failed} failed"
        for what, times in self.failures.items():
            yield "", f"{times} x {what}"
        yield "rotations", f"{self.rotations}; default_ttl is {DEFAULT_TTL} s, max_ttl {MAX_TTL} s"
        yield "left behind", f"{_count(self.roles_left, 'database role')}, {_count(self.leases_left, 'lease')}"
        yield "connections", f"{self.peak_connections} at most; max_size + overlap is {self.connection_limit}"
        yield "latency", f"p50 {_shown(self.rotating_p50_ms)}, p99 {_shown(self.rotating_p99_ms)} around rotations"
        yield "", f"p50 {_shown(self.calm_p50_ms)}, p99 {_shown(self.calm_p99_ms)} elsewhere"
        yield "no answer for", f"{_shown(self.gap_ms)} around a rotation, {_shown(self.calm_ms)} elsewhere (medians)"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _shown(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"


def _quantile(histogram: Histogram, fraction: float) -> float | None:
    return _ms(histogram.quantile(fraction))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
