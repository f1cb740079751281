"""
Figures: quantiles, pauses, and what belongs to a rotation.
"""

from __future__ import annotations

import itertools

import pytest

from vault_pool.cli.demo.measurements import SPAN, WINDOW, Histogram, Measurements, pauses

HALF = WINDOW / 2


def steady(start, end, step=0.01):
    """Instants every *step* seconds from *start* to *end*."""
    return [start + n * step for n in range(round((end - start) / step) + 1)]


def test_quantiles_are_right_to_within_5_percent():
    """The histogram's buckets cost no more precision than that."""
    histogram = Histogram()
    for n in range(1, 1001):
        histogram.add(n / 1000)
    assert histogram.quantile(0.5) == pytest.approx(0.5, rel=0.05)
    assert histogram.quantile(0.99) == pytest.approx(0.99, rel=0.05)


def test_an_empty_histogram_has_no_quantiles():
    """Where nothing was measured nothing is told."""
    assert Histogram().quantile(0.5) is None


def test_durations_of_nothing_are_counted():
    """A clock too coarse for a duration disturbs no figure."""
    histogram = Histogram()
    histogram.add(0.0)
    assert histogram.quantile(1.0) == pytest.approx(1e-5, rel=0.05)


def test_pauses_tell_windows_with_a_rotation_from_calm_ones():
    """A pause around a rotation counts for the gap, one elsewhere for the calm."""
    finished = sorted(set(steady(0, 9.9)) | set(steady(10.1, 20)))
    measured = pauses(finished, [10.0])
    assert measured.gap == pytest.approx(0.2, abs=0.02)
    assert measured.calm == pytest.approx(0.01, abs=0.005)


def test_a_rotation_whose_window_is_cut_off_is_not_measured():
    """A window needs load on both sides."""
    measured = pauses(steady(0, 5), [HALF / 2, 5 - HALF / 2])
    assert measured.gap is None
    assert measured.calm is not None


def test_rotations_closer_than_a_window_leave_no_calm_between_them():
    """Windows that overlap are measured, and the time between them is nobody's."""
    measured = pauses(steady(0, 3 * WINDOW), [1.4 * WINDOW, 1.6 * WINDOW])
    assert measured.gap == pytest.approx(0.01, abs=0.005)


def test_without_requests_there_are_no_pauses():
    """A demo that was interrupted at once has a summary all the same."""
    assert pauses([], [1.0]).gap is None


def test_latency_is_sorted_by_the_rotation_next_to_it():
    """A request belongs to a rotation that comes up to half a window later, or came as long before."""
    measured = Measurements()
    for ended, latency in ((10.0, 0.001), (10.0 + HALF * 1.1, 0.002), (10.0 + HALF * 2.9, 0.004)):
        measured.finished(ended - latency, ended, fast=True, failure=None)
    measured.rotated(10.0 + HALF * 2)
    measured.digest(100.0)
    assert measured.in_windows.quantile(0.01) == pytest.approx(0.002, rel=0.05)
    assert measured.in_windows.quantile(1.0) == pytest.approx(0.004, rel=0.05)
    assert measured.outside.quantile(1.0) == pytest.approx(0.001, rel=0.05)


def test_what_may_yet_meet_a_rotation_waits():
    """A request is sorted only once half a window has passed, and is counted at once."""
    measured = Measurements()
    measured.finished(9.9, 10.0, fast=True, failure=None)
    measured.digest(10.0 + HALF * 0.9)
    assert measured.outside.quantile(1.0) is None
    assert measured.requests == 1


def test_every_request_is_counted_once():
    """Fast and slow ones, answered or failed."""
    measured = Measurements()
    for fast, failure in itertools.product((True, False), (None, "503 PoolTimeout")):
        measured.finished(1.0, 2.0, fast=fast, failure=failure)
    measured.digest(100.0)
    assert measured.requests == 4
    assert measured.failed == 2
    assert measured.failures == {"503 PoolTimeout": 2}


def test_throughput_is_told_by_spans_that_are_over():
    """Oldest first, the rotations beside it."""
    measured = Measurements()
    measured.began = 0.0
    for ended in (0.1, 0.2, SPAN + 0.1, 2 * SPAN + 0.1):
        measured.finished(ended - 0.01, ended, fast=True, failure=None)
    measured.rotated(SPAN + 0.2)
    now = 2 * SPAN + HALF + 0.05
    measured.digest(now)
    assert measured.throughput(now, 10) == ([2, 1], [0, 1])
    assert measured.throughput(now, 1) == ([1], [1])
