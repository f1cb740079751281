"""
Forks of this process that say what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 30.0


class Child:
    """
    A fork of this process, which calls *work* and ends; `verdict` is what it returned (as JSON), or raises its error.

    It ends by os._exit, whatever happens, and is waited for: what hangs is killed after a while.
    """

    def __init__(self, work: Callable[[], Any], *, fork: Callable[[], int] | None = None) -> None:
        self._reader, writer = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 and later warn of threads that the child will lack.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = (fork or os.fork)()
        if self.pid == 0:
            try:
                os.write(writer, (json.dumps({"value": work()}) + "\n").encode())
            except BaseException:  # noqa: BLE001 - the parent raises it
                os.write(writer, (json.dumps({"error": traceback.format_exc()[-3000:]}) + "\n").encode())
            finally:
                os._exit(0)
        os.close(writer)

    def verdict(self) -> Any:
        """Return what *work* returned."""
        ready, _, _ = select.select([self._reader], [], [], PATIENCE)
        text = os.read(self._reader, 65536) if ready else b""
        self.end()
        assert text, "the child hangs, or ended without a word"
        said = json.loads(text)
        assert "value" in said, said["error"]
        return said["value"]

    def end(self) -> None:
        """Wait for its end, or kill it."""
        deadline = time.monotonic() + 2.0
        while (done := os.waitpid(self.pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.002)
        if done == (0, 0):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._reader)


def in_child(work: Callable[[], Any], **options: Any) -> Any:
    """Return what *work* returns in a fork of this process."""
    return Child(work, **options).verdict()


def sockets(port: int | None = None) -> set[str]:
    """Return the sockets that this process holds (to *port*): a child that shares one has it by the same name."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that listed the folder
            found.add(str(entry.readlink()))
    found = {name for name in found if name.startswith("socket:")}
    return found if port is None else found & _sockets_to(port)


def _sockets_to(port: int) -> set[str]:
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if int(row[2].rpartition(":")[2], 16) == port}
