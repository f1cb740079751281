"""
Requests to Vault: the only module that touches hvac.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vault_pool.errors import ConfigurationError, VaultError, VaultUnavailable
from vault_pool.vault import translate
from vault_pool.vault.answer import Answer
from vault_pool.vault.limiter import RateLimiter
from vault_pool.vault.secret import Secret, censored, revealed

# Repeating at once is for a connection that failed by chance; an outage is the state machine's business.
_ATTEMPTS = 3
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
_PART_OF_TIMEOUT = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """
    Where Vault is, and how to talk to it.

    *timeout* is in seconds, for connecting and for each wait for data.
    *verify* is True, False or the path of a CA file.
    """

    address: str
    timeout: float
    verify: bool | str = True
    namespace: str | None = None
    cert: str | tuple[str, str] | None = None
    proxies: Mapping[str, str] | None = field(default=None, repr=False)


class Transport:
    """
    The HTTP side of one Vault in one process, without a token of its own. Thread-safe.

    Raises nothing but `VaultError`; an error has no cause, no context and no frame of hvac, requests or urllib3,
    because those frames hold tokens and passwords in clear.
    """

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float]) -> None:
        self.endpoint = endpoint
        #: Set it to have pauses between attempts end at once.
        self.closing = threading.Event()
        self._limiter = RateLimiter(clock)
        self._lock = threading.Lock()  # guards the making and closing of _adapter
        self._adapter: Any = None

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
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: Secret | None
    ) -> Answer | VaultError:
        """
        Do what `request` does, but return the error instead of raising it.
        """
        import tenacity  # noqa: PLC0415 - late, as hvac

        repeat = tenacity.Retrying(
            retry=tenacity.retry_if_result(_at_once),
            stop=tenacity.stop_after_attempt(_ATTEMPTS)
            | tenacity.stop_after_delay(self.endpoint.timeout * _PART_OF_TIMEOUT)
            | tenacity.stop_when_event_set(self.closing),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
            sleep=tenacity.sleep_using_event(self.closing),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        outcome: Answer | VaultError = repeat(self._send, method, path, body, token)
        return outcome

    def close(self) -> None:
        """
        Close what is open; a later request opens it again.
        """
        with self._lock:
            adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, token: Secret | None
    ) -> Answer | VaultError:
        pause = self._limiter.take()
        if pause > 0:
            return VaultUnavailable(
                f"{method} {path} was not sent: this process asks Vault too much",
                created_nothing=True,
                retry_after=pause,
            )
        try:
            return self._converse(method, path, body, token)
        except BaseException as interruption:  # noqa: BLE001 - raised again
            # KeyboardInterrupt, or the SystemExit of a server's signal handler: it may pass, the frames may not.
            interruption.__context__ = None
            raise interruption.with_traceback(None) from None

    def _converse(
        self, method: str, path: str, body: Mapping[str, Any] | None, token: Secret | None
    ) -> Answer | VaultError:
        """
        Make one request. The only frame that holds secrets in clear; no `Exception` leaves it.
        """
        headers = {} if token is None else {"X-Vault-Token": token.reveal()}
        try:
            response = self._connected().request(
                method,
                f"/v1/{path}",
                headers=headers,
                raise_exception=False,
                json=None if body is None else revealed(body),
                timeout=(self.endpoint.timeout, self.endpoint.timeout),
            )
        except Exception as cause:  # noqa: BLE001 - whatever it is, it must not leave
            return translate.unanswered(method, path, self.endpoint.address, self.endpoint.timeout, cause)
        answer_headers = {name.lower(): value for name, value in response.headers.items()}
        decoded = _decoded(response)
        if response.status_code >= 300:
            texts = _texts(decoded, (token, *(body or {}).values()))
            return translate.refusal(method, path, response.status_code, texts, answer_headers)
        if response.content and decoded is None:
            return translate.malformed(method, path, response.status_code)
        return Answer(status=response.status_code, body=decoded or {}, headers=answer_headers)

    def _connected(self) -> Any:
        with self._lock:
            if self._adapter is None:
                from hvac.adapters import RawAdapter  # noqa: PLC0415 - takes 0.3 s to import

                self._adapter = RawAdapter(
                    base_uri=self.endpoint.address,
                    token="",  # none: each request brings its own
                    cert=self.endpoint.cert,
                    verify=self.endpoint.verify,
                    timeout=self.endpoint.timeout,
                    proxies=dict(self.endpoint.proxies) if self.endpoint.proxies else None,
                    # A redirect would carry the token to a host that nobody configured.
                    allow_redirects=False,
                    namespace=self.endpoint.namespace,
                    # Vault Agent and Vault Proxy may demand the header X-Vault-Request (require_request_header).
                    request_header=True,
                )
            return self._adapter


def checked_timeout(timeout: float) -> float:
    """
    Return *timeout* if it is a positive, finite number of seconds; raise `ConfigurationError` otherwise.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ConfigurationError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return float(timeout)


def _at_once(outcome: Answer | VaultError) -> bool:
    return (
        isinstance(outcome, VaultUnavailable)
        and outcome.retryable
        and outcome.created_nothing
        and outcome.retry_after is None
    )


def _decoded(response: Any) -> dict[str, Any] | None:
    try:
        decoded = response.json()
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _texts(decoded: dict[str, Any] | None, secrets: tuple[object, ...]) -> list[str] | None:
    errors = None if decoded is None else decoded.get("errors")
    return [censored(str(each), *secrets) for each in errors] if isinstance(errors, list) else None
