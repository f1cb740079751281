"""
The lockout of a login name after too many bad logins, at the methods `approle`, `userpass` and `ldap`.

vault: ``isUserLocked`` and ``localUpdateUserFailedLoginInfo``; for AppRole the name is the role id, so that one process
with a stale secret id locks out every user of that role.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vault_pool.devserver.clock import Clock
from vault_pool.devserver.errors import InvalidCredentials, denied
from vault_pool.devserver.values import parse_duration

_THRESHOLD: Final = 5
_SECONDS: Final = 15 * 60


@dataclass(slots=True, kw_only=True)
class _Failures:
    count: int
    last: float


class Lockout:
    """
    Counts bad logins per name. Thread-safe.

    *rules* is a mount's `user_lockout_config`: lockout_threshold, lockout_duration, lockout_counter_reset (seconds or
    durations) and lockout_disable.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, _Failures] = {}

    @contextlib.contextmanager
    def guarding(self, name: str, rules: Mapping[str, Any]) -> Iterator[None]:
        """
        Refuse a login by *name* if it is locked out; else count what the block does: InvalidCredentials, or a success.
        """
        if self.locked(name, rules):
            raise denied()
        try:
            yield
        except InvalidCredentials:
            self.count(name, rules)
            raise
        self.forget(name)

    def locked(self, name: str, rules: Mapping[str, Any]) -> bool:
        """
        Tell whether *name* is locked out; the lockout ends by itself.
        """
        if rules.get("lockout_disable"):
            return False
        with self._lock:
            known = self._failures.get(name)
            if known is None or known.count < int(rules.get("lockout_threshold", _THRESHOLD)):
                return False
            if self._clock.now() - known.last < parse_duration(rules.get("lockout_duration", _SECONDS)):
                return True
            del self._failures[name]
            return False

    def count(self, name: str, rules: Mapping[str, Any]) -> None:
        """
        Count one more bad login.
        """
        if rules.get("lockout_disable"):
            return
        now = self._clock.now()
        reset = parse_duration(rules.get("lockout_counter_reset", _SECONDS))
        with self._lock:
            known = self._failures.get(name)
            before = 0 if known is None or now - known.last >= reset else known.count
            self._failures[name] = _Failures(count=before + 1, last=now)

    def forget(self, name: str) -> None:
        """
        Start again at nought: a good login, or an operator's unlock.
        """
        with self._lock:
            self._failures.pop(name, None)

    def names(self, rules: Mapping[str, Any]) -> list[str]:
        """
        Return who is locked out.
        """
        return sorted(name for name in list(self._failures) if self.locked(name, rules))
