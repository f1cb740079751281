"""
A Vault, as the application names it.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from vault_pool.core.lease import Lease
from vault_pool.core.machine import Owner
from vault_pool.errors import ConfigurationError, VaultDenied
from vault_pool.runtime.clock import SystemClock
from vault_pool.vault import environment, translate
from vault_pool.vault.answer import Answer
from vault_pool.vault.auth import AppRole, Auth, ClientToken, Token
from vault_pool.vault.secret import Secret
from vault_pool.vault.token import TokenKeeper
from vault_pool.vault.transport import Endpoint, Transport, checked_timeout

logger = logging.getLogger("vault_pool.vault")

_TIMEOUT = 10.0


class Vault:
    """
    One Vault or OpenBao, and the login to it. Sources that share it share a token.

    *address* is its URL; *verify* is True, or the path of a CA file; *timeout* (seconds) bounds the connecting and
    each wait for data of every request. Nothing is sent before the first request. After `fork` the child logs in for
    itself: a token's leases belong to the process that it was issued to. Thread-safe.
    """

    name = "?"

    def __init__(
        self,
        address: str,
        *,
        auth: Auth,
        namespace: str | None = None,
        verify: bool | str | os.PathLike[str] = True,
        timeout: float = _TIMEOUT,
        name: str | None = None,
    ) -> None:
        address, problem = inspected(address)
        self._begin(
            Endpoint(
                address=checked(address, problem),
                verify=verify if isinstance(verify, bool) else os.fspath(verify),
                timeout=checked_timeout(timeout),
                namespace=namespace or None,
            ),
            auth,
            name,
        )

    def _begin(self, endpoint: Endpoint, auth: Auth, name: str | None) -> None:
        self._endpoint = endpoint
        self._auth = auth
        self.name = name or urlsplit(endpoint.address).netloc
        self._clock: Callable[[], float] = SystemClock().now
        # One entry for each process that this object lives in: a fork's child has its own token, locks and sockets.
        self._keepers: dict[int, TokenKeeper] = {}
        #: Whether the token's policies are not known to forbid ``sys/leases/revoke``.
        self.may_revoke = True
        _warn(endpoint)

    @classmethod
    def from_env(cls, auth: Auth | None = None) -> Vault:
        """
        Take all settings from the environment, now: ``VAULT_ADDR``, ``VAULT_NAMESPACE``, ``VAULT_CACERT``,
        ``VAULT_CAPATH``, ``VAULT_CLIENT_CERT`` and ``…_KEY``, ``VAULT_SKIP_VERIFY``, ``VAULT_CLIENT_TIMEOUT``.

        ``BAO_…`` goes before ``VAULT_…``, as in OpenBao. Without *auth* it is ``VAULT_TOKEN`` if that is set, else
        AppRole by ``VAULT_ROLE_ID``. Raises `ConfigurationError` for what is missing or cannot be read.
        """
        address = environment.variable("ADDR")
        if not address:
            raise ConfigurationError("no address of Vault: set VAULT_ADDR (or BAO_ADDR), or pass address")
        address, problem = inspected(address)
        if auth is None:
            auth = _auth_from_env()
        cert, key = environment.variable("CLIENT_CERT"), environment.variable("CLIENT_KEY")
        vault = cls.__new__(cls)
        vault._begin(
            Endpoint(
                address=checked(address, problem),
                verify=not environment.flag("SKIP_VERIFY")
                and (environment.variable("CACERT") or environment.variable("CAPATH") or True),
                timeout=checked_timeout(environment.duration("CLIENT_TIMEOUT", _TIMEOUT)),
                namespace=environment.variable("NAMESPACE") or None,
                cert=(cert, key) if cert and key else cert or None,
            ),
            auth,
            None,
        )
        return vault

    @classmethod
    def from_client(cls, client: Any) -> Vault:
        """
        Use the settings and the token of *client*, an ``hvac.Client``.

        The token stays the application's: it is read from *client* at each login, renewed, and never revoked.
        """
        adapter = client.adapter
        settings = adapter._kwargs
        verify, timeout = settings.get("verify"), settings.get("timeout")
        address, problem = inspected(adapter.base_uri)
        vault = cls.__new__(cls)
        vault._begin(
            Endpoint(
                address=checked(address, problem),
                verify=True if verify is None else verify,
                timeout=checked_timeout(timeout if isinstance(timeout, (int, float)) else _TIMEOUT),
                namespace=adapter.namespace or None,
                cert=settings.get("cert"),
                proxies=settings.get("proxies"),
            ),
            ClientToken(client),
            None,
        )
        return vault

    def __repr__(self) -> str:
        return f"<Vault {self.name}>"

    @property
    def address(self) -> str:
        """
        The URL, as it was given.
        """
        return self._endpoint.address

    # --- requests ------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: Secret | None) -> Answer:
        """
        Send one request with *token*, or with none. Raises `VaultError`.
        """
        return self._keeper._transport.request(method, path, body, token=token)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, issuing: bool = False) -> Answer:
        """
        Send one request with the token that is kept, which is got first where there is none.

        *issuing* tells that the answer is a lease. A token that turns out to be dead is replaced once, and the
        request repeated: a 403 did nothing. Raises `VaultPoolError`.
        """
        keeper = self._keeper
        for last in (False, True):
            held = keeper.borrow(issuing=issuing)
            answer: Answer | None = None
            try:
                outcome = keeper._transport.exchange(method, path, body, token=held.secret)
                if isinstance(outcome, Answer):
                    answer = outcome
                    return answer
                if not isinstance(outcome, VaultDenied):
                    raise outcome
                dead = keeper.is_dead(held, hint=outcome.token_dead)
            finally:
                keeper.give_back(held, answer, issuing=issuing)
            if last or not dead:
                break
        raise translate.denied(method, path, dead=dead)

    # --- the token -----------------------------------------------------------------------------------------

    def owner(self, lease: Lease) -> Owner:
        """
        Return what is known of the token that issued *lease*. No I/O.
        """
        return self._keeper.owner(lease.lease_id)

    def extended(self, lease: Lease) -> None:
        """
        Take note of the new end of *lease*.
        """
        self._keeper.extended(lease)

    def ended(self, lease: Lease) -> None:
        """
        Take note that *lease* is over: an older token of ours is revoked when its last lease is. May do I/O.
        """
        self._keeper.ended(lease.lease_id)

    def forbid_revoking(self) -> bool:
        """
        Take note that the policies forbid ``sys/leases/revoke``, and tell whether that is news.
        """
        with _once_lock:
            news, self.may_revoke = self.may_revoke, False
        return news

    def attach(self, runtime: Any, wake: Callable[[], None]) -> None:
        """
        Begin upkeep of the token on *runtime*; *wake* is called, from any thread, when an owner may have changed.
        """
        self._keeper.attach(runtime, wake)

    def detach(self, wake: Callable[[], None]) -> None:
        """
        End what `attach` began; the last one out revokes the token if it is ours. May do I/O.
        """
        self._keeper.detach(wake)

    def close(self) -> None:
        """
        Revoke the token if it is ours, and close the connections. It can be used again: that logs in anew.
        """
        self._keeper.close()

    @property
    def _keeper(self) -> TokenKeeper:
        # uWSGI runs no fork hooks, so the process is looked at here. `setdefault` is atomic: one keeper a process.
        pid = os.getpid()
        keeper = self._keepers.get(pid)
        if keeper is None:
            transport = Transport(self._endpoint, self._clock)
            keeper = self._keepers.setdefault(pid, TokenKeeper(transport, self._auth, clock=self._clock))
        return keeper


def inspected(address: str) -> tuple[str, str]:
    """
    Return *address* as it may be shown, and what is wrong with it, or an empty string. Raises nothing.

    A user and password do not belong into it, but who wrote them there must not find them in an error report.
    """
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except (ValueError, AttributeError, TypeError):
        sound = False
    if not sound:
        return "", "address (VAULT_ADDR) must be a URL such as https://vault.example.com:8200"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "", "address (VAULT_ADDR) must hold a host, a port and a path at most: no user, no query"
    return address.rstrip("/"), ""


def checked(address: str, problem: str) -> str:
    """
    Return *address*, or raise `ConfigurationError` where there is a *problem*.
    """
    if problem:
        raise ConfigurationError(problem)
    return address


def _auth_from_env() -> Auth:
    if environment.variable("TOKEN"):
        return Token.from_env()
    if environment.variable("ROLE_ID"):
        return AppRole.from_env()
    raise ConfigurationError("no login: set VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID, or pass auth")


def _warn(endpoint: Endpoint) -> None:
    if endpoint.verify is False:
        _warn_once(
            f"the TLS certificate of {endpoint.address} is not verified (verify, VAULT_SKIP_VERIFY): "
            "anybody on the way can read the credentials"
        )
    parts = urlsplit(endpoint.address)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        _warn_once(f"{endpoint.address} is not encrypted: anybody on the way can read the credentials; use https")


_warned: set[str] = set()
_once_lock = threading.Lock()  # guards _warned, and every Vault.may_revoke


def _warn_once(text: str) -> None:
    with _once_lock:
        first = text not in _warned
        _warned.add(text)
    if first:
        logger.warning("%s", text)
        warnings.warn(text, UserWarning, stacklevel=5)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
