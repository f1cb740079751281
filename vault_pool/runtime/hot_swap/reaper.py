"""
The thread that lets retired generations finish.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from psycopg_pool import ConnectionPool

from vault_pool.errors import PoolClosed
from vault_pool.runtime import forking
from vault_pool.runtime.hot_swap.ending import cancel, cut_off
from vault_pool.runtime.hot_swap.generation import Generation, GenerationPool
from vault_pool.runtime.hot_swap.tracking import dismiss

logger = logging.getLogger("vault_pool.pool")

#: How long ``close()`` of a retired pool waits for each of its threads, in seconds. A thread that hangs in a connect
#: takes all of it, and delays the next retirement; with much less psycopg_pool warns of threads that are well.
CLOSE_TIMEOUT = 0.2
#: The pause between the closings of two idle connections.
PACE = 0.01
#: How often, in seconds, the reaper counts the connections of a generation that is being used up.
RECOUNT = 0.05


class Reaper:
    """
    Close retired pools, and tell when their last connection is closed. *cancels*: what is still out at the deadline of
    a generation is cancelled.

    Its thread begins with the first one and lives until `close`: to start it takes longer than a swap.

    Thread-safe: ``_changed`` guards the collection of generations and the thread; pools and connections are closed
    outside it, and never by one of the pool's own workers.
    """

    def __init__(self, name: str, *, cancels: bool = False) -> None:
        self._name = name
        self._cancels = cancels
        # Reentrant, as is `Budget.changed`: `close` is a finalizer.
        self._changed = threading.Condition(threading.RLock())
        # Those whose pools are still to be closed; they are in the dict below as well.
        self._arrived: list[Generation[Any]] = []
        # When each is to be complained about.
        self._retiring: dict[Generation[Any], float] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        forking.watch(self)

    def start_over(self) -> None:
        """
        Forget what is retiring: in a child of fork, that is the parent's.
        """
        forking.renew(self._changed)
        self._arrived.clear()
        self._retiring.clear()
        self._thread = None

    def retire(self, generation: Generation[Any], timeout: float) -> None:
        """
        Close the pool of *generation*, which has begun retiring, and its connections as they come back.

        After *timeout* seconds a warning names who still holds one. If the lease of the generation is over for good by
        then, or as soon as it is, what is still out is cancelled and cut off from the server.
        """
        with self._changed:
            self._arrived.append(generation)
            self._retiring[generation] = monotonic() + timeout
            self._changed.notify_all()
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name=f"{self._name}-reaper", daemon=True)
            # Under the lock: `close` must not meet a thread that cannot be joined yet.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread
                return
        # Since Python 3.12 no thread can be started once the interpreter has begun to exit: the caller works.
        self._pass(at_once=True)

    def retiring(self) -> list[Generation[Any]]:
        """
        Return the generations that are not finished.
        """
        with self._changed:
            return list(self._retiring)

    def wait(self, timeout: float) -> list[Generation[Any]]:
        """
        Wait up to *timeout* seconds until all generations are finished, and return those that are not.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._retiring, timeout)
            return list(self._retiring)

    def close(self, timeout: float) -> None:
        """
        Stop waiting for connections that are out, and wait up to *timeout* seconds for the thread to end.

        Idle connections are closed at once, those that are out by their pools when they come back.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    # --- The thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            last = self._wait()
            self._pass(at_once=last)
            if last:
                return

    def _wait(self) -> bool:
        """
        Wait until there is something to do; return whether it is the last pass.
        """
        with self._changed:
            if not self._retiring:
                self._changed.wait_for(lambda: self._retiring or self._closed)
            elif not self._arrived and not self._closed:
                pacing = any(generation.leftovers for generation in self._retiring)
                self._changed.wait(PACE if pacing else RECOUNT)
            return self._closed

    def _pass(self, *, at_once: bool) -> None:
        with self._changed:
            arrived, self._arrived = self._arrived, []
        for generation in arrived:
            _close_pool(generation)
        for generation in self.retiring():
            self._look_after(generation, at_once=at_once)

    def _look_after(self, generation: Generation[Any], *, at_once: bool) -> None:
        # Pacing is for the clients' sake; sessions that are worth nothing only take room from the successor.
        for _ in range(len(generation.leftovers) if at_once or generation.revoked else 1):
            if generation.leftovers:
                dismiss(generation.leftovers.pop())
        generation.reclaim()
        with self._changed:
            if generation not in self._retiring:
                # The last pass of a thread that was told to end meets the first one of its successor.
                return
            done = generation.live() == 0 and generation.connecting == 0
            due = monotonic() >= self._retiring[generation]
            if done:
                del self._retiring[generation]
                self._changed.notify_all()
            elif due:
                self._retiring[generation] = math.inf
                generation.overdue = True
        if done:
            generation.finish()
            return
        if due:
            self.complain(generation)
        # Also later: only then its lease may come to its end.
        if generation.overdue and generation.revoked and not generation.ending:
            generation.ending = True
            self._in_background(partial(_end, generation))
        elif due and self._cancels:
            self._in_background(partial(_cancel, generation))

    def _in_background(self, action: Callable[[], None]) -> None:
        """
        Run *action*, which a server that hangs may hold up, beside this thread, which clients wait for.
        """
        thread = threading.Thread(target=action, name=f"{self._name}-ending", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # There are too many, or the interpreter has begun to exit.
            action()

    def complain(self, generation: Generation[Any]) -> None:
        """
        Name in the log who still holds connections of *generation*.
        """
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        now = monotonic()
        borrowers = generation.borrowers()
        holders = ", ".join(
            f"thread {names.get(ident, ident)} for {now - since:.1f} s" for since, ident, _ in borrowers
        )
        logger.warning(
            "%s: generation %d is past its retire timeout and still has %d connection(s) out: %s%s",
            self._name,
            generation.number,
            generation.live(),
            holders or "lent outside of this pool",
            "".join(
                f"\nborrowed by thread {names.get(ident, ident)} in\n{stack}" for _, ident, stack in borrowers if stack
            ),
        )


def _cancel(generation: Generation[Any]) -> None:
    for conn in generation.connections():
        cancel(conn)


def _end(generation: Generation[Any]) -> None:
    """
    End the sessions of a generation whose lease is over: revoking has to end access.
    """
    for conn in generation.connections():
        cancel(conn)
        cut_off(conn)
    generation.notify()


def _close_pool(generation: Generation[Any]) -> None:
    pool = generation.pool
    _send_on(pool)
    try:
        if isinstance(pool, GenerationPool):
            pool.deferring = threading.get_ident()
        pool.close(CLOSE_TIMEOUT)
    except Exception:
        # The class may be the application's. The reaper's thread must not end by it.
        logger.exception("the pool %r could not be closed", pool.name)
    finally:
        if isinstance(pool, GenerationPool):
            pool.deferring = None


def _send_on(pool: ConnectionPool[Any]) -> None:
    """
    Fail the clients that queue in *pool*, so that they go on to its successor; nobody can join the queue any more.

    ``close()`` does the same, but only after it has waited for its threads, one of which may hang in a connect.
    """
    with pool._lock:
        waiting = list(pool._waiting)
        pool._waiting.clear()
    for client in waiting:
        client.fail(PoolClosed(f"the pool {pool.name!r} is closed"))
