"""
Faults that tests provoke: answers that hang, answers that are something else.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(slots=True, kw_only=True)
class Failure:
    """
    Another answer than the true one, *times* times, for paths that begin with *prefix*.
    """

    prefix: str
    status: int
    body: Any = field(repr=False)
    times: int


class Hang:
    """
    Holds the answers for paths that begin with *prefix*, until `release()` or the end of a ``with`` block.

    *after*: the request is carried out first and only the answer is held; otherwise it is held before anything happens.
    Thread-safe.
    """

    def __init__(self, prefix: str, *, after: bool) -> None:
        self.prefix = prefix
        self.after = after
        self._held = threading.Semaphore(0)
        self._released = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """
        Let all held answers go, and hold no more.
        """
        self._released.set()

    def wait_held(self, timeout: float = 10.0) -> bool:
        """
        Wait until one more request is held; False after *timeout* seconds.
        """
        return self._held.acquire(timeout=timeout)

    def hold(self) -> None:
        """
        Hold the calling thread, which carries a request.
        """
        if not self._released.is_set():
            self._held.release()
            self._released.wait()


class Faults:
    """
    The faults in force; paths are without ``/v1/``. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: list[Failure] = []
        self._hangs: list[Hang] = []

    def fail(self, prefix: str, status: int, body: Any, times: int) -> None:
        """
        Answer the next *times* requests for *prefix* with *status* and *body*.
        """
        with self._lock:
            self._failures.append(Failure(prefix=prefix, status=status, body=body, times=times))

    def hang(self, prefix: str, *, after: bool) -> Hang:
        """
        Hold requests for *prefix* from now on.
        """
        hang = Hang(prefix, after=after)
        with self._lock:
            self._hangs.append(hang)
        return hang

    def failure(self, path: str) -> Failure | None:
        """
        Return the failure that *path* meets, and count it.
        """
        with self._lock:
            for failure in self._failures:
                if path.startswith(failure.prefix) and failure.times > 0:
                    failure.times -= 1
                    return failure
        return None

    def hold(self, path: str, *, after: bool) -> None:
        """
        Hold the calling thread if *path* is to hang.
        """
        with self._lock:
            hangs = [hang for hang in self._hangs if hang.after is after and path.startswith(hang.prefix)]
        for hang in hangs:
            hang.hold()

    def clear(self) -> None:
        """
        End all faults.
        """
        with self._lock:
            hangs, self._hangs, self._failures = self._hangs, [], []
        for hang in hangs:
            hang.release()
