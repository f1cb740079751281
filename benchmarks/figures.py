"""What is measured, its spread, and what it is held against."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of a table: a median and its quartiles; *target* is the bound, from above unless *at_least*."""

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    samples: int = 1
    target: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        reached = self.value >= self.target if self.at_least else self.value <= self.target
        return "reached" if reached else "MISSED"


def median(
    what: str, samples: Sequence[float], unit: str, *, target: float | None = None, at_least: bool = False
) -> Figure:
    """Return the median of *samples* with their quartiles."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Figure(
        what=what, value=middle, low=low, high=high, unit=unit, samples=len(samples), target=target, at_least=at_least
    )


def ratios(what: str, ours: Sequence[float], theirs: Sequence[float], **target: object) -> Figure:
    """Return the median of the ratios of samples that were taken in the same round."""
    paired = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return median(what, paired, "x", **target)  # type: ignore[arg-type]


def ratio_of_medians(what: str, ours: Sequence[float], theirs: Sequence[float], **target: object) -> Figure:
    """
    Return the ratio of the medians, and the quartiles that it has when the samples are drawn again (bootstrap).

    For samples that are no pairs, such as the longest pauses of different windows.
    """
    draw = random.Random(0)
    drawn = [
        statistics.median(draw.choices(ours, k=len(ours))) / statistics.median(draw.choices(theirs, k=len(theirs)))
        for _ in range(1000)
    ]
    low, _, high = statistics.quantiles(drawn, n=4)
    value = statistics.median(ours) / statistics.median(theirs)
    return Figure(what=what, value=value, low=low, high=high, unit="x", samples=len(ours), **target)  # type: ignore[arg-type]


def percentile(samples: Sequence[float], percent: int) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


def interleaved(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each contender once per round, in an order that is drawn anew, after two rounds of warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(-2, rounds):
        random.shuffle(order)
        with no_collection():
            for name in order:
                took = contenders[name]()
                if number >= 0:
                    samples[name].append(took)
    return samples


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage now and not within."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds *action* takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
