"""
What a child does with what it finds, without any server.
"""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys
import threading

import pytest

from tests.children import in_child
from vault_pool.runtime import forking
from vault_pool.runtime.hot_swap.budget import Budget
from vault_pool.runtime.hot_swap.reaper import Reaper
from vault_pool.runtime.scheduler import Runtime

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


class Heir:
    def __init__(self, error=None):
        self.started_over = 0
        self.error = error
        forking.watch(self)

    def start_over(self):
        self.started_over += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def hookless():
    """A fork that runs no hooks, as uWSGI's: C's, with the interpreter's lock held."""
    interval = sys.getswitchinterval()
    # A thread that has asked for that lock would never take it in the child, which waits for it to do so.
    sys.setswitchinterval(60.0)
    yield ctypes.PyDLL(None).fork
    sys.setswitchinterval(interval)


def test_each_heir_starts_over_once_in_the_child_and_never_in_the_parent():
    """In a child of a child again."""
    heir = Heir()
    child = in_child(lambda: (heir.started_over, in_child(lambda: heir.started_over), heir.started_over))

    assert child == [1, 2, 1]
    assert heir.started_over == 0


def test_a_fork_without_hooks_is_noticed_by_whoever_asks(hookless):
    """Once, however many threads ask."""
    heir = Heir()

    def work():
        before = bool(forking.here()), heir.started_over
        threads = [threading.Thread(target=forking.settle) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return before, bool(forking.here()), heir.started_over

    assert in_child(work, fork=hookless) == [[False, 0], True, 1]
    assert forking.here()
    assert heir.started_over == 0


def test_a_process_is_known_by_its_id_where_memory_tells_nothing(monkeypatch, hookless):
    """Kernels without MADV_WIPEONFORK, and other systems."""
    monkeypatch.setattr(forking, "_page", lambda: None)
    mark = forking.Mark()

    assert mark.here()
    assert in_child(lambda: (bool(mark.here()), mark.set(), bool(mark.here())), fork=hookless) == [False, None, True]
    assert mark.here()


def test_memory_that_the_kernel_cannot_wipe_is_not_relied_upon(monkeypatch):
    """madvise() refuses what it does not know; the process id serves."""
    monkeypatch.setattr(forking, "_WIPE_ON_FORK", 9999)

    assert forking._page() is None


def test_an_heir_that_fails_keeps_no_other_from_starting_over(hookless):
    """And the error is raised where somebody can see it; once."""
    heirs = [Heir(), Heir(ValueError("no")), Heir()]

    def work():
        with pytest.raises(ValueError, match="no"):
            forking.settle()
        forking.settle()
        return [heir.started_over for heir in heirs]

    assert in_child(work, fork=hookless) == [1, 1, 1]


def test_an_heir_is_not_kept_alive():
    """It is referred to weakly."""
    heir = Heir()
    forking.watch(heir)
    count = len(forking._heirs)
    del heir
    gc.collect()

    assert len(forking._heirs) < count


def test_locks_and_tables_of_modules_are_as_new_in_the_child():
    """Whoever held them, and whatever was in them."""
    lock, table = forking.lock(), forking.table()
    table["lease"] = "the parent's"
    with lock:
        assert in_child(lambda: (lock.acquire(timeout=1), table)) == [True, {}]

    assert table == {"lease": "the parent's"}


@pytest.mark.parametrize(
    "make", [Runtime, lambda: Budget(1, 1), lambda: Reaper("pool")], ids=["runtime", "budget", "reaper"]
)
def test_nothing_is_heard_of_the_parents_threads(make):
    """What waits for work in the parent is not there in the child, which begins with no threads and no work."""
    ours = make()
    assert in_child(lambda: len(threading.enumerate())) == 1
    if isinstance(ours, Runtime):
        ours.acquire()
        ours.call_at(ours.clock.now() + 3600, lambda: None)
        ours.submit("lane", lambda: None)

        def work():
            done = threading.Event()
            ours.acquire()
            ours.submit("lane", done.set)
            served = done.wait(5)
            ours.release()
            return served, len(ours._scheduler._heap), ours._users

        assert in_child(work) == [True, 0, 0]
        assert ours._users == 1
        ours.release()


def test_a_job_that_forks_ends_with_its_thread():
    """The child's only thread is the worker's: it does not go on to the parent's next job."""
    runtime, ran = Runtime(), []
    runtime.acquire()

    def job():
        ran.append(in_child(lambda: (runtime._workers.start_over(), len(runtime._workers._jobs))))

    runtime.submit("lane", job)
    runtime.submit("lane", lambda: ran.append("next"))
    runtime.release()

    assert sorted(map(str, ran)) == ["[None, 0]", "next"]


def test_a_dead_socket_takes_what_is_written():
    """The other end hears nothing, neither of a write nor of a close; and the parent's side is as it was."""
    ours, theirs = socket.socketpair()

    def work():
        forking.cut_off(ours.fileno())
        inheritable = os.get_inheritable(ours.fileno())
        with pytest.raises(OSError):
            ours.send(b"X")
        with pytest.raises(OSError):
            ours.recv(1)
        ours.close()
        return inheritable

    inheritable = in_child(work)
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    ours.send(b"parent")

    assert theirs.recv(10) == b"parent"
    assert not inheritable
    ours.close()
    theirs.close()


def test_a_descriptor_that_is_somebody_elses_by_now_is_left_alone():
    """The thread that connected by it closed it, and the number was given out again."""
    connecting, other = socket.socket(), None
    with forking.whole:
        forking.connecting(connecting.fileno())
    number = connecting.fileno()
    connecting.close()
    ours, theirs = socket.socketpair()
    if ours.fileno() != number:
        other = os.dup2(ours.fileno(), number)
    try:
        in_child(lambda: os.write(number, b"still open"))
    finally:
        forking.connected()

    assert theirs.recv(20) == b"still open"
    if other is not None:
        os.close(other)
    ours.close()
    theirs.close()
