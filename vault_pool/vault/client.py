"""
A Vault, as the application names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from vault_pool.core.lease import Lease
from vault_pool.core.machine import Owner
from vault_pool.errors import ConfigurationError, VaultDenied
from vault_pool.runtime import forking
from vault_pool.runtime.clock import SystemClock
from vault_pool.vault import environment, translate
from vault_pool.vault.answer import Answer
from vault_pool.vault.auth import AgentToken, AppRole, Auth, ClientToken, TLSCertificate, Token
from vault_pool.vault.auth.token import file_of_the_command_line
from vault_pool.vault.endpoint import (
    Endpoint,
    checked_addresses,
    checked_cert,
    checked_proxies,
    checked_timeout,
    checked_verify,
    warn,
)
from vault_pool.vault.secret import Secret
from vault_pool.vault.token import TokenKeeper
from vault_pool.vault.transport import Transport

_TIMEOUT = 10.0


class Vault:
    """
    One Vault or OpenBao, and the login to it. Sources that share it share a token.

    *address* is its URL (``https://…``, ``http://…``, ``unix:///path``), or several, which are tried in order: a
    request that surely did nothing goes on to the next, and the one that answered is asked first from then on.
    *verify* is True, the path of a CA file or of a folder of them, or PEM text; *cert* a client certificate, or it and
    its key; *tls_server_name* the name that the server's certificate has to bear. *proxy* is the URL of an HTTP proxy,
    "" for none; left out, ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` say. *timeout* (seconds) bounds every
    request with all its attempts. A standby's redirect is followed once, if *follow_redirects*.

    Nothing is sent before the first request, and files are read then. After `fork` the child logs in for itself: a
    token's leases belong to the process that it was issued to. Thread-safe.
    """

    name = "?"

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        auth: Auth,
        namespace: str | None = None,
        verify: bool | str | os.PathLike[str] = True,
        cert: str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        tls_server_name: str | None = None,
        proxy: str | None = None,
        timeout: float = _TIMEOUT,
        follow_redirects: bool = True,
        name: str | None = None,
    ) -> None:
        addresses, proxies = checked_addresses(address), checked_proxies(proxy)
        del address, proxy
        self._begin(
            Endpoint(
                addresses=sound(addresses),
                verify=checked_verify(verify),
                timeout=checked_timeout(timeout),
                namespace=namespace or None,
                cert=checked_cert(cert),
                tls_server_name=tls_server_name or None,
                proxies=sound(proxies),
                follow_redirects=follow_redirects,
            ),
            auth,
            name,
        )

    def _begin(self, endpoint: Endpoint, auth: Auth, name: str | None) -> None:
        if isinstance(auth, TLSCertificate) and endpoint.cert is None:
            raise ConfigurationError(
                "auth=TLSCertificate() needs a client certificate: cert (VAULT_CLIENT_CERT, VAULT_CLIENT_KEY)"
            )
        self._endpoint = endpoint
        self._auth = auth
        self.name = name or endpoint.place
        self._clock: Callable[[], float] = SystemClock().now
        # One entry for each process that this object lives in: a fork's child has its own token, locks and sockets.
        self._keepers: dict[int, TokenKeeper] = {}
        #: Whether the token's policies are not known to forbid ``sys/leases/revoke``.
        self.may_revoke = True
        warn(endpoint, stacklevel=3)

    @classmethod
    def from_env(cls, auth: Auth | None = None) -> Vault:
        """
        Take all settings from the environment, now: ``VAULT_AGENT_ADDR`` or ``VAULT_ADDR``, ``VAULT_NAMESPACE``,
        ``VAULT_CACERT_BYTES``, ``VAULT_CACERT`` or ``VAULT_CAPATH``, ``VAULT_CLIENT_CERT`` and ``…_KEY``,
        ``VAULT_TLS_SERVER_NAME``, ``VAULT_SKIP_VERIFY``, ``VAULT_PROXY_ADDR`` or ``VAULT_HTTP_PROXY``,
        ``VAULT_CLIENT_TIMEOUT``, ``VAULT_DISABLE_REDIRECTS``.

        ``BAO_…`` goes before ``VAULT_…``, as in OpenBao. Without *auth* it is ``VAULT_TOKEN`` if that is set, else
        AppRole by ``VAULT_ROLE_ID``, else the token that ``vault login`` left in ``~/.vault-token``, else what the
        agent at ``VAULT_AGENT_ADDR`` adds. Raises `ConfigurationError` for what is missing or cannot be read.
        """
        address = environment.variable("AGENT_ADDR") or environment.variable("ADDR")
        if not address:
            raise ConfigurationError("no address of Vault: set VAULT_ADDR (or BAO_ADDR), or pass address")
        addresses = checked_addresses(address)
        proxies = checked_proxies(environment.variable("PROXY_ADDR") or environment.variable("HTTP_PROXY") or None)
        del address
        if environment.flag("SRV_LOOKUP"):
            raise ConfigurationError("VAULT_SRV_LOOKUP is not supported: pass the addresses, Vault([…], auth=…)")
        cert, key = environment.variable("CLIENT_CERT"), environment.variable("CLIENT_KEY")
        trusted = (environment.variable(name) for name in ("CACERT_BYTES", "CACERT", "CAPATH"))
        vault = cls.__new__(cls)
        vault._begin(
            Endpoint(
                addresses=sound(addresses),
                verify=checked_verify(not environment.flag("SKIP_VERIFY") and (next(filter(None, trusted), True))),
                timeout=checked_timeout(environment.duration("CLIENT_TIMEOUT", _TIMEOUT)),
                namespace=environment.variable("NAMESPACE") or None,
                cert=checked_cert((cert, key) if cert and key else cert),
                tls_server_name=environment.variable("TLS_SERVER_NAME") or None,
                proxies=sound(proxies),
                follow_redirects=not environment.flag("DISABLE_REDIRECTS"),
            ),
            auth_from_env() if auth is None else auth,
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
        settings = dict(adapter._kwargs)
        verify, timeout = settings.get("verify"), settings.get("timeout")
        addresses, proxies = checked_addresses(adapter.base_uri), checked_proxies(settings.get("proxies") or None)
        del settings["proxies"]
        vault = cls.__new__(cls)
        vault._begin(
            Endpoint(
                addresses=sound(addresses),
                verify=checked_verify(True if verify is None else verify),
                timeout=checked_timeout(timeout if isinstance(timeout, (int, float)) else _TIMEOUT),
                namespace=adapter.namespace or None,
                cert=checked_cert(settings.get("cert")),
                proxies=sound(proxies),
                follow_redirects=bool(adapter.allow_redirects),
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
                outcome = keeper._transport.exchange(method, path, body, token=held.secret, fresh=issuing)
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


_T = TypeVar("_T")


def sound(setting: _T | str) -> _T:
    """
    Return *setting*, or raise `ConfigurationError` where it is the text of what is wrong with it.
    """
    if isinstance(setting, str):
        raise ConfigurationError(setting)
    return setting


def auth_from_env() -> Auth:
    """
    Return the login that Vault's environment variables name, as `Vault.from_env` does without *auth*.
    """
    if environment.variable("TOKEN"):
        return Token.from_env()
    if environment.variable("ROLE_ID"):
        return AppRole.from_env()
    if file_of_the_command_line() is not None:
        return Token.from_env()
    if environment.variable("AGENT_ADDR"):
        return AgentToken()
    raise ConfigurationError("no login: set VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID, or pass auth")


_once_lock = forking.lock()  # guards every Vault.may_revoke
