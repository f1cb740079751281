"""
The errors that this library raises.

Rule 1: no error holds a secret, nor a connection object (psycopg's keep the password in ``exc.pgconn``).
Rule 2: errors about the pool descend from the driver's, so that existing ``except psycopg.OperationalError`` works.
"""

from __future__ import annotations

import math

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

__all__ = [
    "ConfigurationError",
    "LeaseLost",
    "LoginFailed",
    "PoolClosed",
    "PoolError",
    "PoolTimeout",
    "ProofFailed",
    "SourceError",
    "TooManyRequests",
    "VaultDenied",
    "VaultError",
    "VaultPoolError",
    "VaultRefused",
    "VaultUnavailable",
    "fold",
]

_LONGEST_TEXT = 400


def fold(text: object) -> str:
    """
    Return *text* on one line, shortened: texts of Vault and of PostgreSQL hold newlines and have no bound.
    """
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1] + "…"


class VaultPoolError(Exception):
    """
    The base of all errors of this library.
    """


class ConfigurationError(VaultPoolError, ValueError):
    """
    A setting cannot work; the text names it and says what to do.
    """


class SourceError(VaultPoolError):
    """
    A source that is not Vault (a file, a function of the application) gave no credential; it is tried again.

    *longest_pause* is the time in seconds within which that happens, however often it has failed: a file costs nobody
    anything.
    """

    def __init__(self, message: str, *, longest_pause: float = math.inf) -> None:
        super().__init__(fold(message))
        self.longest_pause = longest_pause


class VaultError(VaultPoolError):
    """
    Vault, or the way to it, did not give what was asked for.

    *retryable* tells whether the same request may succeed later without anybody changing a setting.
    *created_nothing* tells that the request surely changed nothing in Vault, so that it may be sent again at once.
    *retry_after* is the time in seconds before which it must not be sent again, where that is known.
    *status* is the HTTP status, None where there was no answer.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        created_nothing: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(fold(message))
        self.status = status
        self.created_nothing = created_nothing
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable


class VaultUnavailable(VaultError):
    """
    Vault could not be reached, is sealed, or is in trouble of its own (5xx, 429, 412, time-outs).
    """


class VaultDenied(VaultError):
    """
    Vault refused for want of permission: a policy, a refused login, or a dead token.

    *token_dead* tells a dead token (log in again) from a policy (somebody has to change it).
    """

    retryable = False

    def __init__(
        self, message: str, *, status: int | None = 403, token_dead: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status=status, created_nothing=True, retry_after=retry_after)
        self.token_dead = token_dead


class VaultRefused(VaultError):
    """
    Vault understood and refused: an unknown role, a role that the connection may not hand out, a bad request.
    """

    retryable = False


class LeaseLost(VaultError):
    """
    The lease is over or unknown to Vault: renewing it is of no use any more.
    """

    retryable = False


class PoolError(VaultPoolError, psycopg.OperationalError):
    """
    The pool could not do its work.
    """


class LoginFailed(PoolError):
    """
    PostgreSQL refused a login, or could not be reached; the text is the server's.

    *refused* tells that the server had the password when it ended the attempt. psycopg has no SQLSTATE of it
    (psycopg's issue 1188), and the text may be in any language.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class ProofFailed(PoolError):
    """
    A new credential did not prove itself; the current generation serves on.
    """
