"""
The answers that are no success, with Vault's statuses and texts.
"""

from __future__ import annotations

from vault_pool.devserver.flavor import Flavor


class ApiError(Exception):
    """
    An answer with a status of 400 or more, and Vault's envelope ``{"errors": [...]}`` (possibly empty).
    """

    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(status, *errors)
        self.status = status
        self.errors = errors
        self.headers: dict[str, str] = {}


class InvalidCredentials(ApiError):
    """
    A login that counts towards a lockout.
    """


class ConnectionDropped(ConnectionResetError):
    """
    No answer at all: the handler panicked, and Go's HTTP server closes the connection.
    """


class BackendError(Exception):
    """
    What went wrong inside an engine; the caller decides which status and wrapping it gets.

    vault: the same Go error is a 500 on a creds read and a 400 on a renewal (``handleError``).
    """


def wrapped(text: str) -> str:
    """
    Return *text* as Go's multierror prints a list of one.
    """
    return f"1 error occurred:\n\t* {text}\n\n"


def refused(text: str) -> ApiError:
    """
    Return the 400 of a ``logical.ErrorResponse``: the bare text.
    """
    return ApiError(400, text)


def failed(text: str) -> ApiError:
    """
    Return the 500 of an error without a response.
    """
    return ApiError(500, wrapped(text))


def denied_by_policy() -> ApiError:
    """
    Return the 403 of a living token whose policies do not allow the request.
    """
    return ApiError(403, wrapped("permission denied"))


def bad_token(flavor: Flavor) -> ApiError:
    """
    Return the 403 of a token that is missing, unknown, expired, revoked or bound to another address.
    """
    return ApiError(403, flavor.bad_token)


def denied() -> ApiError:
    """
    Return the 403 of a login that is locked out, or comes from an address that it may not come from.
    """
    return ApiError(403, "permission denied")


def not_found() -> ApiError:
    """
    Return the 404 of a read or list that found nothing.
    """
    return ApiError(404)


def unsupported_path() -> ApiError:
    """
    Return the 404 of a path that the engine does not know.
    """
    return ApiError(404, wrapped("unsupported path"))


def unsupported_operation() -> ApiError:
    """
    Return the 405 of a path that does not know the operation.
    """
    return ApiError(405, wrapped("unsupported operation"))
