"""
A transaction that is run again when it was no fault of its own that it failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar

import psycopg
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from vault_pool.errors import ConfigurationError
from vault_pool.runtime.hot_swap import Generation, HotSwapPool
from vault_pool.runtime.hot_swap.holder import positive

T = TypeVar("T")

_SERIALIZATION = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected


class Transaction(Generic[T]):
    """
    The attempts at one transaction, made by one thread.

    An attempt may be repeated when it failed by a revocation, or lost its session before COMMIT was sent: PostgreSQL
    has rolled it back then. Beyond that it is the caller's choice: after a *serialization* failure (PostgreSQL
    documentation, "Serialization Failure Handling": the application has to run the whole transaction again), and
    where the session was lost after COMMIT was sent, so that the outcome is *unknown*.
    """

    def __init__(self, pool: HotSwapPool[Any], fn: Callable[[Any], T], *, serialization: bool, unknown: bool) -> None:
        self._pool = pool
        self._fn = fn
        self._serialization = serialization
        self._unknown = unknown
        # Of the last attempt: whether COMMIT was sent, and what became of its session.
        self._committing = self._revoked = self._broken = False

    def run(self, attempts: int, timeout: float | None) -> T:
        """
        Return what the function returned in the attempt that was committed; raise what the last attempt raised.
        """
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ConfigurationError(f"attempts must be a number of at least 1, not {attempts!r}")
        deadline = math.inf if timeout is None else monotonic() + positive("timeout", timeout)
        # The first attempt is nearly always the only one: tenacity's machinery would add a tenth to it.
        try:
            return self._attempt(deadline)
        except Exception as error:
            if attempts == 1 or not self._may_repeat(error):
                raise
        limit: Any = stop_after_attempt(attempts - 1)
        if timeout is not None:
            limit |= stop_after_delay(deadline - monotonic())
        retrying = Retrying(
            retry=retry_if_exception(self._may_repeat),
            wait=wait_random_exponential(multiplier=0.01, max=1.0),
            stop=limit,
            sleep=self._pause,
            retry_error_callback=_last,
        )
        result: T = retrying(self._attempt, deadline)
        return result

    def _attempt(self, deadline: float) -> T:
        self._committing = self._revoked = self._broken = False
        pool = self._pool
        with pool.connection(max(0.0, min(pool.timeout, deadline - monotonic()))) as conn:
            try:
                with conn.transaction():
                    result = self._fn(conn)
                    self._committing = True
            except Exception:
                self._broken = conn.broken
                generation: Generation[Any] | None = getattr(conn, "_generation", None)
                if generation is not None and getattr(conn, "_suspect", False):
                    self._revoked = generation.settle(conn)
                raise
        return result

    def _may_repeat(self, error: BaseException) -> bool:
        if self._broken:
            return self._unknown or not self._committing
        if self._revoked:
            return True
        return self._serialization and isinstance(error, psycopg.Error) and error.sqlstate in _SERIALIZATION

    def _pause(self, seconds: float) -> None:
        """
        Sleep between two attempts; a pool that is closed meanwhile ends it.
        """
        changed: Any = self._pool._changed
        with changed:
            changed.wait_for(lambda: self._pool.closed, seconds)


def _last(state: RetryCallState) -> Any:
    """
    Raise what the last attempt raised, as if there had been no other.
    """
    assert state.outcome is not None
    return state.outcome.result()
