"""
How many server connections all generations of one holder may have.
"""

from __future__ import annotations

import math
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from vault_pool.errors import ProofFailed
from vault_pool.runtime import forking

if TYPE_CHECKING:
    from vault_pool.runtime.hot_swap.generation import Generation

#: How often, in seconds, who waits for room asks again. Connections that a server broke give no notice.
RECOUNT = 0.02
#: The pause between two logins of a generation that is being opened, as a multiple of the last login's duration …
PACE = 2.0
#: … and its bounds in seconds. The cost of a rotation is CPU, once per login; few at a time keep the pause short.
PACE_BOUNDS = (0.01, 0.05)


class Retired(BaseException):
    """
    End what a pool worker does that wants to connect in a generation which has no use for it, or no means, any more.

    No `Exception`: psycopg_pool would log a failed connection, and try again.
    """


class Budget:
    """
    The one gate in front of ``connection_class.connect``.

    Growth waits until the connections of all generations, live and connecting, are fewer than *max_size*; only a
    generation that is being opened may use *overlap* beyond it, and it opens one connection at a time.

    Thread-safe: ``changed`` guards the set of generations and their counts of connections in the making. It is
    notified whenever there may be more room. No I/O happens while it is held.
    """

    def __init__(self, max_size: int, overlap: int) -> None:
        self.max_size = max_size
        self.overlap = max(1, overlap)
        # Reentrant, as all locks that closing a connection takes: the collector may run a finalizer that closes one
        # in a thread that holds it.
        self.changed = threading.Condition(threading.RLock())
        self._generations: list[Generation[Any]] = []
        forking.watch(self)

    def start_over(self) -> None:
        """
        Forget the generations that were open: in a child of fork, they are the parent's.
        """
        forking.renew(self.changed)
        self._generations = [generation for generation in self._generations if not generation.pool._opened]

    def resize(self, max_size: int, overlap: int) -> None:
        """
        Change what all generations together may have.
        """
        with self.changed:
            self.max_size = max_size
            self.overlap = max(1, overlap)
            self.changed.notify_all()

    def add(self, generation: Generation[Any]) -> None:
        """
        Count the connections of *generation* from now on.
        """
        with self.changed:
            self._generations.append(generation)

    def remove(self, generation: Generation[Any]) -> None:
        """
        Forget *generation*, whose last connection is closed.
        """
        with self.changed:
            if generation in self._generations:
                self._generations.remove(generation)
            self.changed.notify_all()

    def enter(self, generation: Generation[Any], timeout: float = math.inf) -> None:
        """
        Do as `ask`, and wait for room; raise `ProofFailed` when there is none within *timeout* seconds.
        """
        deadline = monotonic() + timeout
        with self.changed:
            while pause := self.ask(generation):
                if monotonic() >= deadline:
                    raise ProofFailed(
                        f"there is no room for the login of a new generation: {self._in_use()} connections are open or "
                        f"being opened, and max_size + overlap is {self.max_size + self.overlap}; the log names who "
                        "holds old ones, or raise overlap"
                    )
                self.changed.wait(pause)

    def ask(self, generation: Generation[Any]) -> float:
        """
        Take room for one more connection of *generation* and return 0.0, or return after how many seconds to ask again.

        Raises `Retired` when the generation is retired, or barred. Every room that is taken is followed by one `leave`.
        """
        with self.changed:
            if generation.retired or generation.barred:
                raise Retired
            opening = generation.opening
            limit = self.max_size + (self.overlap if opening else 0)
            pause = generation.paced_until - monotonic() if opening else 0.0
            if pause <= 0 and self._in_use() < limit and not (opening and generation.connecting):
                generation.connecting += 1
                return 0.0
            return pause if pause > 0 else RECOUNT

    def leave(self, generation: Generation[Any], login: float) -> None:
        """
        Tell that a connect of *generation* that took *login* seconds is over, well or not.

        What was connected has been registered with its generation before.
        """
        least, most = PACE_BOUNDS
        with self.changed:
            generation.connecting -= 1
            generation.paced_until = monotonic() + min(most, max(least, login * PACE))
            self.changed.notify_all()

    def notify(self) -> None:
        """
        Have those who wait for room count again.
        """
        with self.changed:
            self.changed.notify_all()

    def _in_use(self) -> int:
        return sum(generation.connecting + generation.live() for generation in self._generations)
