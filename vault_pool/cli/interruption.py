"""
Ctrl-C and SIGTERM as a wish to end in order.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """
    Whether Ctrl-C, or SIGTERM, has asked for the end. The second time it raises KeyboardInterrupt.

    A flag and no `threading.Event`: a handler that sets one while the same thread waits for it may block for ever.
    """

    asked = False

    @contextmanager
    def handling(self) -> Iterator[None]:
        """
        Handle both signals.
        """
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, _number: int, _frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
