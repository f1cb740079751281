"""
Requests to Vault: the only module that touches hvac.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from vault_pool.errors import VaultError, VaultUnavailable
from vault_pool.runtime import forking
from vault_pool.vault import translate
from vault_pool.vault.answer import Answer
from vault_pool.vault.endpoint import Endpoint
from vault_pool.vault.limiter import RateLimiter
from vault_pool.vault.redirect import Moved
from vault_pool.vault.secret import Secret, censored, revealed

# Repeating at once is for a connection that failed by chance; an outage is the state machine's business.
_ATTEMPTS = 3
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
# The last attempt must have time for an answer: a read that is given up on may have made a database role.
_PART_OF_TIMEOUT = 0.5
_LEAST_WAIT = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    One request: *path* as "sys/health", without "/v1/"; the secrets of *body* are wrapped in `Secret`.

    *fresh* asks caches on the way for an answer of its own.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None
    token: Secret | None
    fresh: bool = False


class Transport:
    """
    The HTTP side of one Vault in one process, without a token of its own. Thread-safe.

    Raises nothing but `VaultError`; an error has no cause, no context and no frame of hvac, requests or urllib3,
    because those frames hold tokens and passwords in clear.

    Where there are several addresses, a request that surely did nothing goes on to the next, and the one that
    answered is asked first from then on. One timeout covers all of it.
    """

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float]) -> None:
        self.endpoint = endpoint
        #: Set it to have pauses between attempts end at once.
        self.closing = threading.Event()
        self._limiter = RateLimiter(clock)
        self._preferred = 0
        self._lock = threading.Lock()  # guards _adapters
        self._adapters: dict[str, Any] = {}
        forking.watch(self)

    def start_over(self) -> None:
        """
        Let go of the parent's connections, in a child of fork, where this object is kept and not used any more.
        """
        # Private parts of urllib3 are asked, and nothing depends on it: Vault ends what is idle after a while.
        with contextlib.suppress(Exception):
            for adapter in self._adapters.values():
                from vault_pool.vault.connection import idle_sockets  # noqa: PLC0415 - late, as hvac; loaded by now

                for descriptor in idle_sockets(adapter.session):
                    forking.cut_off(descriptor)

    def __repr__(self) -> str:
        return f"<Transport {self.endpoint.address}>"

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: Secret | None) -> Answer:
        """
        Send *body*, whose values may be `Secret`, to *path* (as "sys/health", without "/v1/"), and return the answer.

        Repeated at once, a few times, only where Vault surely did nothing.
        """
        outcome = self.exchange(method, path, body, token=token)
        if isinstance(outcome, VaultError):
            raise outcome
        return outcome

    def exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: Secret | None,
        fresh: bool = False,
    ) -> Answer | VaultError:
        """
        Do what `request` does, but return the error instead of raising it.
        """
        import tenacity  # noqa: PLC0415 - late, as hvac

        request = Request(method=method, path=path, body=body, token=token, fresh=fresh)
        several = len(self.endpoint.addresses)
        pause = tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE)
        repeat = tenacity.Retrying(
            retry=tenacity.retry_if_result(_elsewhere if several > 1 else _at_once),
            stop=tenacity.stop_after_attempt(max(_ATTEMPTS, several))
            | tenacity.stop_after_delay(self.endpoint.timeout * _PART_OF_TIMEOUT)
            | tenacity.stop_when_event_set(self.closing),
            # From one address to the next there is nothing to wait for.
            wait=lambda state: 0.0 if state.attempt_number % several else pause(state),
            sleep=tenacity.sleep_using_event(self.closing),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        turns = itertools.count(self._preferred)
        deadline = monotonic() + self.endpoint.timeout
        outcome: Answer | VaultError = repeat(lambda: self._turn(request, next(turns) % several, deadline))
        return outcome

    def close(self) -> None:
        """
        Close what is open; a later request opens it again, with the certificates as they are in their files then.
        """
        with self._lock:
            adapters, self._adapters = list(self._adapters.values()), {}
        for adapter in adapters:
            _close(adapter)

    def _turn(self, request: Request, turn: int, deadline: float) -> Answer | VaultError:
        """
        Send *request* to the address number *turn*, and to where that redirects it, if it may.
        """
        address = self.endpoint.addresses[turn]
        outcome = self._send(request, address, deadline)
        if isinstance(outcome, Moved):
            target = outcome.target(address, request.path) if self.endpoint.follow_redirects else None
            if target is not None:
                outcome = self._send(request, target, deadline)
        if isinstance(outcome, Moved):
            return translate.not_followed(request.method, request.path, outcome.status, outcome.host)
        if not _elsewhere(outcome):
            self._preferred = turn
        return outcome

    def _send(self, request: Request, address: str, deadline: float) -> Answer | Moved | VaultError:
        pause = self._limiter.take()
        if pause > 0:
            return VaultUnavailable(
                f"{request.method} {request.path} was not sent: this process asks Vault too much",
                created_nothing=True,
                retry_after=pause,
            )
        try:
            return self._converse(request, address, deadline)
        except BaseException as interruption:  # noqa: BLE001 - raised again
            # KeyboardInterrupt, or the SystemExit of a server's signal handler: it may pass, the frames may not.
            interruption.__context__ = None
            raise interruption.with_traceback(None) from None

    def _converse(self, request: Request, address: str, deadline: float) -> Answer | Moved | VaultError:
        """
        Make one request. The only frame that holds secrets in clear; no `Exception` leaves it.
        """
        method, path, body, token = request.method, request.path, request.body, request.token
        headers = {} if token is None else {"X-Vault-Token": token.reveal()}
        if request.fresh:
            # The cache of a Vault Agent compares whole requests, and would hand out somebody else's lease
            # (OpenBao source, lease_cache.go, computeIndexID).
            headers["X-Request-Id"] = str(uuid.uuid4())
        try:
            with self._connected(address) as adapter:
                response = adapter.request(
                    method,
                    f"/v1/{path}",
                    headers=headers,
                    raise_exception=False,
                    json=None if body is None else revealed(body),
                    timeout=self._timeout(deadline),
                )
        except VaultUnavailable as error:
            return error.with_traceback(None)
        except Exception as cause:  # noqa: BLE001 - whatever it is, it must not leave
            if translate.is_tls(cause):
                self.close()  # so that the certificates are read again: somebody may have replaced them
            return translate.unanswered(method, path, address, self.endpoint.timeout, cause)
        answer_headers = {name.lower(): value for name, value in response.headers.items()}
        if 300 <= response.status_code < 400:
            return Moved(status=response.status_code, location=answer_headers.get("location", ""))
        decoded = _decoded(response)
        # A KV store tells of a deleted version, and of a path that is another version's, with 404 and a body.
        told = response.status_code == 404 and "data" in (decoded or {})
        if response.status_code >= 300 and not told:
            texts = _texts(decoded, (token, *(body or {}).values()))
            return translate.refusal(method, path, response.status_code, texts, answer_headers)
        if response.content and decoded is None:
            return translate.malformed(method, path, response.status_code)
        return Answer(status=response.status_code, body=decoded or {}, headers=answer_headers)

    def _timeout(self, deadline: float) -> Any:
        """
        Return what is left until *deadline*, of which connecting leaves at least half to the addresses after this one.
        """
        from urllib3.util import Timeout  # noqa: PLC0415 - loaded with hvac, late

        left = max(_LEAST_WAIT, deadline - monotonic())
        several = len(self.endpoint.addresses)
        share = left if several == 1 else min(left, self.endpoint.timeout * (1 - _PART_OF_TIMEOUT) / several)
        return Timeout(connect=share, read=left, total=left)

    @contextlib.contextmanager
    def _connected(self, address: str) -> Iterator[Any]:
        """
        Yield the adapter for *address*. That of an address which nobody configured is closed afterwards.
        """
        if address not in self.endpoint.addresses:
            adapter = self._opened(address)
            try:
                yield adapter
            finally:
                _close(adapter)
            return
        with self._lock:
            if address not in self._adapters:
                self._adapters[address] = self._opened(address)
            adapter = self._adapters[address]
        yield adapter

    def _opened(self, address: str) -> Any:
        from hvac.adapters import RawAdapter  # noqa: PLC0415 - takes 0.3 s to import

        from vault_pool.vault.connection import open_session  # noqa: PLC0415 - the same

        session, base = open_session(self.endpoint, address)
        return RawAdapter(
            base_uri=base,
            token="",  # none: each request brings its own
            session=session,
            # Whom to follow is for us to decide: requests would carry the token anywhere.
            allow_redirects=False,
            namespace=self.endpoint.namespace,
            # Vault Agent and Vault Proxy may demand the header X-Vault-Request (require_request_header).
            request_header=True,
        )


def _close(adapter: Any) -> None:
    from vault_pool.vault.connection import close_session  # noqa: PLC0415 - late, as hvac; loaded by now

    close_session(adapter.session)


def _at_once(outcome: Answer | VaultError) -> bool:
    """
    Return whether to send a request again at once after *outcome*: nothing was done, and nobody asked to wait.
    """
    return _elsewhere(outcome) and isinstance(outcome, VaultError) and outcome.retryable


def _elsewhere(outcome: Answer | VaultError) -> bool:
    """
    Return whether another address may do better: one whose certificate is no good may stand beside a sound one.
    """
    return isinstance(outcome, VaultUnavailable) and outcome.created_nothing and outcome.retry_after is None


def _decoded(response: Any) -> dict[str, Any] | None:
    try:
        decoded = response.json()
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _texts(decoded: dict[str, Any] | None, secrets: tuple[object, ...]) -> list[str] | None:
    errors = None if decoded is None else decoded.get("errors")
    return [censored(str(each), *secrets) for each in errors] if isinstance(errors, list) else None
