"""
Logging in: one at a time, and never so often that it locks somebody out.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vault_pool.errors import VaultDenied, VaultError, VaultPoolError, VaultRefused, VaultUnavailable
from vault_pool.vault import translate
from vault_pool.vault.answer import Answer, Grant, grant_of_login, grant_of_lookup
from vault_pool.vault.secret import Secret
from vault_pool.vault.transport import Transport

# User lockout (Vault documentation, "User lockout"): after five refused logins the role_id is locked for everybody
# for 15 minutes. The count is forgotten only after 15 minutes *without* a refused login, so pausing a little between
# attempts does not help. 960 s leaves a minute for clocks and slow answers.
_FORGOTTEN_AFTER = 960.0
_SECOND_TRY_AFTER = 60.0
_UNCHANGED_TRIES = 2
_TRIES = 4
_LOOK_AGAIN = 15.0

_LOOKUP = "auth/token/lookup-self"


class LoginClient:
    """
    What a login method may do: log in, or look up a token that was given. An application's own gets one, too.

    *spent* is the token in use if it has one use left, so that looking it up would end it and its leases.
    """

    def __init__(self, transport: Transport, guard: LoginGuard, *, spent: Secret | None = None) -> None:
        self._transport = transport
        self._guard = guard
        self._spent = spent

    def login(self, path: str, body: Mapping[str, Any], *, may_change: bool = False, lockout: bool = True) -> Grant:
        """
        Log in at *path* ("auth/approle/login") with *body*, whose texts, but for names of roles, are secrets.

        A refusal is `VaultDenied`, whose *retry_after* says when a login with the same *body* is sent again; until
        then it is raised again without a request. *may_change* tells that the next *body* may be another one, of a
        file that was rewritten, so that it is worth looking sooner. *lockout* tells that the auth method may lock out
        who is refused too often.
        """
        body = {key: Secret(each) if _secret(key, each) else each for key, each in body.items()}
        outcome = self._logged_in(path, body, lockout=lockout)
        if isinstance(outcome, VaultError):
            if may_change and outcome.retry_after is not None:
                outcome.retry_after = min(outcome.retry_after, _LOOK_AGAIN)
            raise outcome
        grant = grant_of_login(outcome)
        if grant is None:
            raise _no_token(outcome, path)
        self._guard.accepted()
        if grant.uses == 1:
            raise VaultRefused(f"the login at {path} gives tokens of one use (token_num_uses=1), which issue no lease")
        return grant

    def _logged_in(self, path: str, body: Mapping[str, Any], *, lockout: bool) -> Answer | VaultError:
        credential = (path, dict(body))
        refusal = self._guard.in_force(credential)
        if refusal is not None:
            return refusal
        outcome = self._transport.exchange("POST", path, body, token=None)
        if isinstance(outcome, VaultDenied):
            self._guard.refused(credential, outcome, lockout=lockout)
        return outcome

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: Secret | None = None
    ) -> Answer | VaultError:
        """
        Send a request that is neither, such as one about a wrapping token; return the error instead of raising it.
        """
        return self._transport.exchange(method, path, body, token=token)

    def reconnect(self) -> None:
        """
        Have the next request made over a new connection, with the certificates as they are in their files then.
        """
        self._transport.close()

    def lookup(self, token: Secret | None) -> Grant:
        """
        Return the terms of a given *token* (None: of what an agent adds), or say who has to replace it.
        """
        replace = "whoever gave it has to replace it" if token else "see to the agent (use_auto_auth_token)"
        if token is not None and token == self._spent:
            raise VaultDenied(
                f"the given token has one use left (num_uses), which would end its leases: {replace}", status=None
            )
        grant = looked_up(self._transport, token)
        if isinstance(grant, Grant):
            return grant
        if not isinstance(grant, VaultDenied):
            raise grant
        if grant.token_dead:
            raise VaultDenied(
                f"the given token has ended, was revoked, or is unknown to this Vault: {replace}", token_dead=True
            )
        # It lives, without the policy `default`: nothing is known of its end until it comes.
        return Grant(token=token, ttl=math.inf, increment=math.inf, renewable=False)


def looked_up(transport: Transport, token: Secret | None) -> Grant | VaultError:
    """
    Return the terms of *token*, at the cost of one of its uses, or the error: a `VaultDenied` where it is dead.
    """
    outcome = transport.exchange("GET", _LOOKUP, token=token)
    if isinstance(outcome, VaultError):
        return outcome
    return grant_of_lookup(outcome, token) or translate.lacking("GET", _LOOKUP, outcome.status, "a ttl")


def _secret(key: str, value: object) -> bool:
    return isinstance(value, str) and key not in ("role", "name")


def _no_token(answer: Answer, path: str) -> VaultError:
    auth = answer.body.get("auth")
    if isinstance(auth, Mapping) and auth.get("mfa_requirement"):
        return VaultDenied(
            f"Vault demands a second factor (MFA) for the login at {path}; this library cannot give one: "
            "use a login method or role without MFA enforcement",
            status=answer.status,
        )
    return translate.lacking("POST", path, answer.status, "a token")


class SingleFlight:
    """
    Runs one call at a time; whoever comes while it runs waits for it and shares its outcome. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _flight
        self._flight: _Flight | None = None

    def run(self, lead: Callable[[], None]) -> None:
        """
        Call *lead*, or wait for the call that is under way; raise the `VaultPoolError` that it raised.
        """
        with self._lock:
            flight = self._flight
            if flight is None:
                leading = self._flight = _Flight()
        if flight is not None:
            flight.wait()
            return
        try:
            lead()
        except VaultPoolError as error:
            leading.error = copy.copy(error)
            raise
        else:
            leading.error = None
        finally:
            # The waiting threads may start the next flight as soon as they wake.
            with self._lock:
                self._flight = None
            leading.landed.set()


class _Flight:
    def __init__(self) -> None:
        self.landed = threading.Event()
        self.error: VaultPoolError | None = VaultUnavailable("the login was broken off")

    def wait(self) -> None:
        self.landed.wait()
        if self.error is not None:
            # Each thread raises its own: raising writes the traceback into the error.
            raise copy.copy(self.error)


@dataclass(frozen=True, slots=True)
class _Refusal:
    credential: object
    error: VaultDenied
    at: float
    in_a_row: int
    lockout: bool


class LoginGuard:
    """
    Keeps refused logins so few that they lock nobody out.

    A credential that was refused is tried once more after a minute, and then not for 16 minutes, after which Vault
    has forgotten both. Another credential (a file with a new secret_id) is tried at once, as long as that makes four
    refusals in a row at most. Auth methods that lock nobody out are asked once a minute.
    Thread-safe. The same credential is never on its way twice: the keeper of the token logs in one at a time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _last
        self._last: _Refusal | None = None

    def in_force(self, credential: object) -> VaultDenied | None:
        """
        Return the refusal that is still in force for *credential*, instead of another request.
        """
        with self._lock:
            last, now = self._last, self._clock()
        if last is None or now >= (allowed := self._allowed_at(last, credential)):
            return None
        error = copy.copy(last.error)
        error.retry_after = allowed - now
        return error

    def refused(self, credential: object, error: VaultDenied, *, lockout: bool) -> None:
        """
        Take note that *credential* was refused, and tell in *error* when it may be tried again.
        """
        with self._lock:
            last, now = self._last, self._clock()
            in_a_row = last.in_a_row + 1 if last is not None and now - last.at < _FORGOTTEN_AFTER else 1
            self._last = _Refusal(credential, error, now, in_a_row, lockout)
            error.retry_after = self._allowed_at(self._last, credential) - now

    def accepted(self) -> None:
        """
        Take note of a login that succeeded: Vault forgets the refusals before it.
        """
        with self._lock:
            self._last = None

    @staticmethod
    def _allowed_at(last: _Refusal, credential: object) -> float:
        pause = _FORGOTTEN_AFTER if last.lockout else _SECOND_TRY_AFTER
        if credential != last.credential:
            return last.at if last.in_a_row < _TRIES else last.at + pause
        return last.at + (_SECOND_TRY_AFTER if last.in_a_row < _UNCHANGED_TRIES else pause)
