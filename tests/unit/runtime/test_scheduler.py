"""
The scheduler and the workers.
"""

from __future__ import annotations

import logging
import threading
import time

from vault_pool.runtime.clock import SystemClock
from vault_pool.runtime.scheduler import LANE_WIDTH, Runtime, Scheduler, Workers


class Clock:
    instant = 0.0

    def now(self):
        return self.instant


def test_calls_are_made_in_the_order_of_their_instants():
    """Those of one instant in the order in which they were asked for; later ones wait."""
    scheduler, seen = Scheduler(Clock()), []
    for when, name in ((3.0, "c"), (1.0, "a"), (1.0, "b"), (9.0, "z")):
        scheduler.call_at(when, lambda name=name: seen.append(name))

    assert scheduler.run_due(3.0) == 9.0
    assert seen == ["a", "b", "c"]


def test_a_cancelled_call_is_not_made():
    """And does not count as the next one."""
    scheduler, seen = Scheduler(Clock()), []
    scheduler.call_at(1.0, lambda: seen.append(1)).cancel()

    assert scheduler.run_due(2.0) is None
    assert seen == []


def test_a_call_that_raises_does_not_keep_others_from_being_made(caplog):
    """It is logged: all leases of the process depend on this thread."""
    scheduler, seen = Scheduler(Clock()), []
    scheduler.call_at(1.0, lambda: 1 / 0)
    scheduler.call_at(1.0, lambda: seen.append(1))
    with caplog.at_level(logging.CRITICAL):
        scheduler.run_due(1.0)

    assert seen == [1]


def test_a_call_may_ask_for_another_that_is_due():
    """It is made in the same run."""
    scheduler, seen = Scheduler(Clock()), []
    scheduler.call_at(1.0, lambda: scheduler.call_at(0.0, lambda: seen.append(1)))
    scheduler.run_due(1.0)

    assert seen == [1]


def test_an_earlier_call_wakes_the_thread(no_leaks):
    """It sleeps until the next call, and an earlier one may come meanwhile."""
    runtime, called = Runtime(), threading.Event()
    runtime.acquire()
    runtime.call_at(runtime.clock.now() + 3600, called.clear)
    runtime.call_at(runtime.clock.now() + 0.01, called.set)
    try:
        assert called.wait(5)
    finally:
        runtime.release()


def test_a_full_lane_holds_up_no_other():
    """What hangs has LANE_WIDTH threads at most; other lanes get their own."""
    workers, go_on, other = Workers(), threading.Event(), threading.Event()
    running = []
    for number in range(LANE_WIDTH + 3):
        workers.submit("hangs", lambda number=number: (running.append(number), go_on.wait(10)))
    workers.submit("well", other.set)
    assert other.wait(5)
    assert len(running) <= LANE_WIDTH
    go_on.set()
    deadline = time.monotonic() + 5
    while len(running) < LANE_WIDTH + 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    workers.stop(5.0)

    assert sorted(running) == list(range(LANE_WIDTH + 3))


def test_threads_end_with_the_last_user(no_leaks):
    """And begin anew with the next."""
    runtime = Runtime()
    for _ in range(2):
        runtime.acquire()
        runtime.acquire()
        done = threading.Event()
        runtime.submit("lane", done.set)
        assert done.wait(5)
        runtime.release()
        runtime.release()


def test_the_last_user_may_leave_on_a_worker(no_leaks):
    """A thread does not wait for itself."""
    runtime, left = Runtime(), threading.Event()
    runtime.acquire()
    runtime.submit("lane", lambda: (runtime.release(), left.set()))

    assert left.wait(5)


def test_a_job_that_raises_ends_no_worker(caplog):
    """It is logged, and the next job runs."""
    workers, done = Workers(), threading.Event()
    with caplog.at_level(logging.CRITICAL):
        workers.submit("lane", lambda: 1 / 0)
        workers.submit("lane", done.set)
        assert done.wait(5)
    workers.stop(5.0)


def test_the_system_clock_runs_while_the_machine_sleeps():
    """It is CLOCK_BOOTTIME where there is one, and goes forward."""
    clock = SystemClock()
    first = clock.now()

    assert first <= clock.now()
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(clock.now() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
