"""
What a child of ``fork()`` does with what it finds.

Of all threads only the forking one lives on in a child; locks stay as they were, in the hands of threads that are gone;
sockets are shared with the parent. So nothing of that is used, closed or waited for there: what holds locks, threads or
sockets is an `Heir`, which starts over in place. The parent does nothing for it; only, a fork waits while libpq has a
socket that nobody knows of (`whole`; up to 5 ms where many threads run).

``os.register_at_fork`` sees to it where it exists: where it does not (Windows), nothing forks. A server that forks in C
may run no such hooks (uWSGI without ``py-call-osafterfork``): there `settle` notices, at the first checkout, before
which nothing must be done with a connection that was out.
"""

from __future__ import annotations

import mmap
import operator
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from threading import get_ident
from typing import Any, Protocol

# madvise(2), since Linux 4.14; the module `mmap` has no name for it.
_WIPE_ON_FORK = 18


class Heir(Protocol):
    """
    Something that a child of fork inherits and cannot use as it is.
    """

    def start_over(self) -> None:
        """
        Forget what belongs to the parent process: no I/O, no waiting, no lock that was not made or renewed here.

        Called in the child, in which nothing else runs yet, in no particular order.
        """


class Mark:
    """
    Tells the process that it was last set in from children of it; `here` is asked at each checkout.

    It is a byte that the kernel zeroes in a child, whoever forks: measured, a tenth to a fifth of the cost of
    ``os.getpid()``. Elsewhere than on Linux it is the process id.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._page = _page()
        #: True in the process in which `set` was called, false in its children.
        self.here: Callable[[], object] = (
            (lambda: os.getpid() == self._pid) if self._page is None else partial(operator.getitem, self._page, 0)
        )
        self.set()

    def set(self) -> None:
        """
        Make this process the one.
        """
        if self._page is None:
            self._pid = os.getpid()
        else:
            self._page[0] = 1


def _page() -> mmap.mmap | None:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
    except (AttributeError, OSError, ValueError):
        return None
    return page


_mark = Mark()
here = _mark.here
_heirs: weakref.WeakSet[Heir] = weakref.WeakSet()
_locks: list[Any] = []
_tables: list[dict[Any, Any]] = []
# One entry for each process: a lock of the parent's may be held by a thread that is gone.
_turns: dict[int, threading.Lock] = {}
# Held through each step by which libpq connects, none of which waits for the server.
whole = threading.RLock()
# What libpq connects at this moment, by thread: the descriptor, and the inode, by which it is told from a later one.
_connecting: dict[int, tuple[int, int]] = {}


def watch(heir: Heir) -> None:
    """
    Have *heir*, which is referred to weakly, start over in each child of fork. Thread-safe.
    """
    _heirs.add(heir)


def lock() -> threading.Lock:
    """
    Return a lock, for a module to keep, that is free in a child whoever held it.
    """
    made = threading.Lock()
    _locks.append(made)
    return made


def table() -> dict[Any, Any]:
    """
    Return a dict, for a module to keep, that is empty in a child.
    """
    made: dict[Any, Any] = {}
    _tables.append(made)
    return made


def greenlets() -> bool:
    """
    Tell whether gevent has put greenlets in the place of threads: those live on in a child, and use what they hold.
    """
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def renew(held: Any) -> None:
    """
    Free *held*, a lock or a condition, in a child: with all objects that share it, as the standard library does.
    """
    held._at_fork_reinit()


def settle() -> None:
    """
    Do what a hook of fork should have done, in a child where none was run. Thread-safe; nothing in any other process.
    """
    if here():
        return
    with _turns.setdefault(os.getpid(), threading.Lock()):
        if not here():
            _start_over()


def _start_over() -> None:
    # All of them are kept until each has started over: nothing is finalized that has not.
    heirs = list(_heirs)
    with ExitStack() as stack:
        # In reverse order, and all of it, whatever fails: other threads of a child that no hook has seen wait for
        # the mark.
        stack.callback(_turns.clear)
        stack.callback(_mark.set)
        for heir in heirs:
            stack.callback(heir.start_over)
        stack.callback(_abandon_connects)
        stack.callback(renew, whole)
        for each in _tables:
            stack.callback(each.clear)
        for each_lock in _locks:
            stack.callback(renew, each_lock)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=whole.acquire, after_in_parent=whole.release, after_in_child=_start_over)


# --- Sockets -------------------------------------------------------------------------------------------------


def cut_off(descriptor: int) -> None:
    """
    Put a dead socket in the place of *descriptor*, in this process alone: whatever still knows the number, and writes
    to it or closes it, reaches nobody; and the session ends when the parent ends, since no child holds it open.
    """
    with socket.socket(socket.AF_UNIX) as dead:
        os.dup2(dead.fileno(), descriptor, inheritable=False)


def connecting(descriptor: int) -> None:
    """
    Note that this thread connects by *descriptor*: no object that a child could find has it yet. The caller holds
    `whole`, and did when the socket was made.
    """
    # Where nothing forks, a descriptor of a socket is no file's.
    if hasattr(os, "fork"):
        _connecting[get_ident()] = (descriptor, os.fstat(descriptor).st_ino)


def connected() -> None:
    """
    Note that what this thread connected is known elsewhere, or has failed.
    """
    _connecting.pop(get_ident(), None)


def _abandon_connects() -> None:
    for descriptor, inode in _connecting.values():
        with suppress(OSError):
            # The thread may have closed it between its last step and the fork, and the number be somebody else's.
            if os.fstat(descriptor).st_ino == inode:
                cut_off(descriptor)
    _connecting.clear()
