"""
The life of the token that leases hang on.

Rule 1: a lease dies with the token that issued it, whichever token renews it (vault: "leases are tied to the token").
Rule 2: requests go through the newest token; an older one is kept, not used, until its last lease is given back.
Rule 3: one login at a time; whoever waits for it shares its outcome, and nobody tries again before its time.
Rule 4: the lock guards memory only; no request is made, and no listener called, while it is held.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

from vault_pool.core.lease import Lease
from vault_pool.core.machine import (
    Action,
    Event,
    Failed,
    Lapse,
    Lapsed,
    Owner,
    Read,
    Renew,
    Renewed,
    RotationRequested,
    Sent,
    decide,
)
from vault_pool.core.policy import RenewalPolicy
from vault_pool.errors import VaultDenied, VaultError, VaultPoolError, VaultRefused, VaultUnavailable
from vault_pool.vault.answer import Answer, Grant, grant_of_login
from vault_pool.vault.auth import Auth
from vault_pool.vault.ledger import Held, Ledger
from vault_pool.vault.login import LoginClient, LoginGuard, SingleFlight, looked_up
from vault_pool.vault.transport import Transport
from vault_pool.vault.upkeep import Upkeep

logger = logging.getLogger("vault_pool.vault")

_RENEW = "auth/token/renew-self"
_REVOKE = "auth/token/revoke-self"


class TokenKeeper:
    """
    Keeps a token alive, replaces it in time, and knows which lease hangs on which token. Thread-safe.

    It logs in at the first request that needs a token. Between `attach` and `detach` it renews by itself, driven
    by the same machine as a lease: ``Read`` is a login, ``Renew`` a renew-self.
    """

    def __init__(
        self, transport: Transport, auth: Auth, *, clock: Callable[[], float], policy: RenewalPolicy | None = None
    ) -> None:
        self._transport = transport
        self._auth = auth
        self._clock = clock
        self._policy = policy or RenewalPolicy()
        self._guard = LoginGuard(clock)
        self._flights = SingleFlight()
        self._upkeep = Upkeep(self._decide, self._act)
        self._lock = threading.RLock()  # guards everything below
        self._ledger = Ledger(self._policy)
        self._login_error: VaultPoolError | None = None

    def __repr__(self) -> str:
        return f"<TokenKeeper {self._auth.name}: {self._ledger.state.phase.value}>"

    # --- for requests --------------------------------------------------------------------------------------

    def borrow(self, *, issuing: bool = False) -> Held:
        """
        Return a token for one request, logging in first where that is needed; `give_back` it after the answer.

        *issuing*: the answer is a lease, so a token is wanted that will live for a while.
        """
        for _ in range(3):
            with self._lock:
                held = self._ledger.usable(self._clock(), issuing=issuing)
                if held is not None:
                    return self._ledger.borrow(held)
                found = self._ledger.current
            self._flights.run(functools.partial(self._log_in, found))
        raise VaultUnavailable("the tokens that Vault issues are used up at once", created_nothing=True)

    def give_back(self, held: Held, answer: Answer | None = None, *, issuing: bool = False) -> None:
        """
        End what `borrow` began, and write down the lease that *answer* issued.
        """
        with self._lock:
            self._ledger.give_back(held)
            if issuing and answer is not None and answer.lease_id:
                self._ledger.record(answer.lease_id, held, self._clock() + answer.lease_duration)
            held.proven = held.proven or answer is not None
        self._revoke_spare()

    def extended(self, lease: Lease) -> None:
        """
        Take note of the new end of *lease*.
        """
        with self._lock:
            self._ledger.extend(lease.lease_id, lease.expires_at)

    def ended(self, lease_id: str) -> None:
        """
        Take note that the lease is over; a token of ours that it was the last lease of is revoked.
        """
        with self._lock:
            self._ledger.strike(lease_id)
        self._revoke_spare()

    def owner(self, lease_id: str) -> Owner:
        """
        Return what is known of the token that issued the lease.
        """
        with self._lock:
            held = self._ledger.issuer(lease_id)
            return Owner() if held is None else held.owner

    def is_dead(self, held: Held, *, hint: bool) -> bool:
        """
        Tell whether a 403 came of a dead token. Its text is the *hint*; looking the token up is the proof.

        A dead token has its leases reported dead, and the next `borrow` log in.
        """
        with self._lock:
            if held.dead:
                return True
            spent = not self._ledger.spend(held)
        outcome = None if spent else looked_up(self._transport, held.secret)
        if isinstance(outcome, VaultDenied):
            # Without the policy `default`, looking up is itself denied, by a policy: that token lives.
            hint = outcome.token_dead
        elif isinstance(outcome, VaultError):
            raise outcome
        elif outcome is not None:
            return False
        if hint:
            self._die(held)
        return hint

    # --- upkeep --------------------------------------------------------------------------------------------

    def attach(self, runtime: Any, wake: Callable[[], None]) -> None:
        """
        Keep the token alive on *runtime*; *wake* is called, from any thread, when an owner changed.
        """
        with self._lock:
            self._clock = runtime.clock.now
        self._upkeep.attach(runtime, wake)

    def detach(self, wake: Callable[[], None]) -> None:
        """
        Forget *wake*; the last one out revokes the tokens that are ours. Does I/O.

        Until somebody attaches again, or `close` was called, there is no login: a request that was late would leave a
        token behind, which nobody would revoke.
        """
        tokens: list[Held] = []
        # Who attaches in the meantime waits for the empty ledger: the tokens in *tokens* are as good as revoked.
        self._upkeep.detach(wake, lambda: tokens.extend(self._take_all()))
        self._revoke_all(tokens)

    def close(self) -> None:
        """
        Revoke the tokens that are ours, with all leases that still hang on them, and forget the others.

        A later request logs in anew. What cannot be revoked is logged, and lapses.
        """
        self._upkeep.stop()
        self._revoke_all(self._take_all())

    def _take_all(self) -> list[Held]:
        with self._lock:
            tokens, self._ledger = self._ledger.tokens(), Ledger(self._policy)
        return tokens

    def _revoke_all(self, tokens: list[Held]) -> None:
        self._transport.closing.set()
        try:
            for held in tokens:
                self._revoke(held)
        finally:
            self._transport.closing.clear()
            self._transport.close()

    def _decide(self) -> Action | None:
        with self._lock:
            # Without a token in force there is nothing to keep up: the next request logs in.
            return decide(self._ledger.state, self._clock(), self._policy) if self._ledger.state.serving else None

    def _act(self, action: Action) -> None:
        found = self._ledger.current
        try:
            if isinstance(action, Renew):
                self._renew()
            elif isinstance(action, Read):
                self._flights.run(functools.partial(self._log_in, found))
            elif isinstance(action, Lapse):
                with self._lock:
                    self._advance(Lapsed())
                self._upkeep.announce()
        except VaultPoolError as error:
            logger.warning("%s: no new token: %s", self._auth.name, error)

    def _renew(self) -> None:
        with self._lock:
            held = self._ledger.current
            if held is None:
                return
            if not self._ledger.spend(held, keep=1):
                self._advance(RotationRequested())
                return
            self._advance(Sent())
            now = self._clock()
        increment = math.ceil(held.lease.increment)
        outcome = self._transport.exchange("POST", _RENEW, {"increment": increment}, token=held.secret)
        grant: Grant | VaultError = outcome if isinstance(outcome, VaultError) else self._renewal(outcome, held)
        if isinstance(grant, VaultDenied):
            # Not sure to be dead means that it may not renew itself: then it is replaced before its end.
            self.is_dead(held, hint=grant.token_dead)
        with self._lock:
            if held is not self._ledger.current or held.dead:
                return
            if isinstance(grant, Grant):
                self._advance(Renewed(grant.ttl, now, self._upkeep.draw()))
            else:
                logger.warning("%s: the token could not be renewed: %s", self._auth.name, grant)
                self._advance(_failure(grant, self._upkeep.draw()))
        self._upkeep.announce()

    def _renewal(self, answer: Answer, held: Held) -> Grant | VaultError:
        if answer.cached:
            # A caching proxy repeats an old renewal for ever (hashicorp/vault issue 19684): ask what is true.
            return looked_up(self._transport, held.secret)
        # 204 without a body is what a deleted userpass or cert user gets: nothing was renewed.
        return grant_of_login(answer) or VaultRefused("the renewal granted nothing", status=answer.status)

    # --- login ---------------------------------------------------------------------------------------------

    def _log_in(self, found: Held | None) -> None:
        with self._lock:
            if self._ledger.current is not found:
                return  # another flight landed between the look at `found`, which is not good enough, and this one
            if self._upkeep.is_deserted():
                raise _deserted()
            self._wait_its_time()
            self._advance(Sent())
            now, current = self._clock(), self._ledger.current
        spent = current.secret if current is not None and current.spent and not current.dead else None
        try:
            grant = self._auth.login(LoginClient(self._transport, self._guard, spent=spent))
        except Exception as error:
            # A login method of the application's own may raise anything.
            with self._lock:
                self._login_error = copy.copy(error) if isinstance(error, VaultPoolError) else None
                self._advance(_failure(error, self._upkeep.draw()))
            raise
        finally:
            self._upkeep.arm()
        with self._lock:
            self._login_error = None
            self._ledger.accept(grant, now, self._upkeep.draw())
            # Whoever left while the login was on its way found no token to revoke.
            late = self._take_all() if self._upkeep.is_deserted() else None
        if late is not None:
            self._revoke_all(late)
            raise _deserted()
        self._upkeep.announce()
        self._upkeep.arm()
        self._revoke_spare()

    def _wait_its_time(self) -> None:
        """
        Raise the error of the last login while it is not yet time for another.
        """
        state = self._ledger.state
        pause = max(state.due, state.held_until) - self._clock()
        if self._login_error is not None and pause > 0:
            error = copy.copy(self._login_error)
            if isinstance(error, VaultError):
                error.retry_after = pause
            raise error

    def _advance(self, event: Event) -> None:
        self._ledger.advance(event, self._clock())

    def _die(self, held: Held) -> None:
        with self._lock:
            if held.dead:
                return
            self._ledger.die(held, self._clock())
            if held is self._ledger.current and not held.proven:
                # Its login went well, so that another one would only repeat this: not at once.
                self._login_error = VaultDenied(
                    "Vault refuses the token right after the login that gave it: is it bound to other addresses "
                    "(token_bound_cidrs)?",
                    token_dead=True,
                )
                self._advance(Failed(self._upkeep.draw(), retryable=False))
        logger.warning("%s: the token is dead, and its leases with it", self._auth.name)
        self._upkeep.announce()

    def _revoke_spare(self) -> None:
        with self._lock:
            spare = self._ledger.take_spare(self._clock())
        for held in spare:
            self._revoke(held)

    def _revoke(self, held: Held) -> None:
        # A token that was given belongs to whoever gave it; a batch token cannot be revoked.
        if not held.ours or held.batch or held.dead or held.uses == 0 or self._clock() >= held.lease.expires_at:
            return
        outcome = self._transport.exchange("POST", _REVOKE, token=held.secret)
        if isinstance(outcome, VaultError) and not isinstance(outcome, VaultDenied):
            logger.warning(
                "%s: a token was not revoked and will lapse, with its %d leases: %s",
                self._auth.name,
                len(held.leases),
                outcome,
            )


def _deserted() -> VaultUnavailable:
    return VaultUnavailable(
        "there is no login to Vault any more: every pool that used it was closed", retryable=False, created_nothing=True
    )


def _failure(error: Exception, draw: float) -> Failed:
    if isinstance(error, VaultError):
        return Failed(draw, error.retryable, error.retry_after or 0.0)
    return Failed(draw, retryable=False)
