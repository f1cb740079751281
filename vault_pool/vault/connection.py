"""
Connections to Vault: TLS, sockets of this machine, proxies. The only module that touches requests and urllib3.

Rule: nothing is taken from the environment here. requests would read proxies, CA bundles and ``~/.netrc`` from it at
each request; what counts of these was read when the settings were.
"""

from __future__ import annotations

import errno
import functools
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, address_in_network, is_ipv4_address, is_valid_cidr
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

from vault_pool.errors import VaultUnavailable
from vault_pool.vault.endpoint import Endpoint, is_loopback
from vault_pool.vault.secret import Secret

# Leases of a process are cared for by a few threads at a time; more connections are opened, and not kept.
_CONNECTIONS_KEPT = 10


def open_session(endpoint: Endpoint, address: str) -> tuple[requests.Session, str]:
    """
    Return a session for *address*, and the URL to use with it. Raises `VaultUnavailable` for files that are no good.
    """
    session = requests.Session()
    session.trust_env = False
    parts = urlsplit(address)
    if parts.scheme == "unix":
        # As Vault's own client does: the socket is dialled whatever the URL says.
        session.mount("http://", SocketAdapter(unquote(parts.path)))
        return session, "http://localhost"
    if parts.scheme == "https":
        session.mount("https://", TLSAdapter(tls_context(endpoint), endpoint.tls_server_name))
    session.proxies.update(proxies_for(endpoint.proxies, address))
    return session, address


def close_session(session: requests.Session) -> None:
    """
    Close what *session* keeps open, by itself: urllib3 leaves it to finalizers, which do nothing at the end of Python.
    """
    for pool in _pools(session):
        pool.close()
    session.close()


def idle_sockets(session: requests.Session) -> Iterator[int]:
    """
    Return the descriptors of the connections that *session* keeps open. Takes no lock, so that it is for one thread.
    """
    for pool in _pools(session):
        for connection in pool.pool.queue if pool.pool is not None else ():
            if connection is not None and connection.sock is not None:
                yield connection.sock.fileno()


def _pools(session: requests.Session) -> Iterator[HTTPConnectionPool]:
    for adapter in session.adapters.values():
        assert isinstance(adapter, HTTPAdapter)
        if isinstance(adapter, SocketAdapter):
            yield adapter.pool
        for manager in (adapter.poolmanager, *adapter.proxy_manager.values()):
            yield from list(manager.pools._container.values())


def proxies_for(proxies: Mapping[str, Secret], address: str) -> dict[str, str]:
    """
    Return those of *proxies* that are for *address*, in clear.

    What the environment says, which has a "no", is never for loopback, as with Vault's own client; a proxy that was
    set for Vault always counts.
    """
    parts = urlsplit(address)
    if "no" in proxies and _needs_none(parts.hostname or "", parts.netloc, proxies["no"].reveal()):
        return {}
    chosen = proxies.get(parts.scheme) or proxies.get("all")
    return {parts.scheme: chosen.reveal()} if chosen else {}


def _needs_none(host: str, netloc: str, hosts: str) -> bool:
    if is_loopback(host) or proxy_bypass_environment(netloc, {"no": hosts}):
        return True
    networks = [each.strip() for each in hosts.split(",") if is_valid_cidr(each.strip())]
    return is_ipv4_address(host) and any(address_in_network(host, network) for network in networks)


# --- TLS ---------------------------------------------------------------------------------------------------


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """
    Return the context for TLS to *endpoint*, with its files as they are now.

    It is the one that urllib3 makes for everybody. `VaultUnavailable` names the setting of a file that is no good.
    """
    context = create_urllib3_context()
    if endpoint.verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _load(functools.partial(_trust, context, endpoint.verify), "the CA certificates in verify (VAULT_CACERT)")
    if endpoint.cert is not None:
        cert, key = (endpoint.cert, None) if isinstance(endpoint.cert, str) else endpoint.cert
        # Without a password of ours OpenSSL would ask for it on the terminal.
        present = functools.partial(context.load_cert_chain, cert, key, password="")
        _load(present, "the client certificate in cert (VAULT_CLIENT_CERT, VAULT_CLIENT_KEY)")
    return context


def _trust(context: ssl.SSLContext, verify: bool | str) -> None:
    if verify is True:
        context.load_verify_locations(cafile=DEFAULT_CA_BUNDLE_PATH)
    elif "-----BEGIN" in str(verify):
        context.load_verify_locations(cadata=str(verify))
    elif not Path(str(verify)).is_dir():
        context.load_verify_locations(cafile=str(verify))
    else:
        # All files of the folder, as Vault's own client does; OpenSSL by itself would want hashes for names.
        for file in sorted(Path(str(verify)).iterdir()):
            if file.is_file():
                context.load_verify_locations(cafile=str(file))
        if not context.cert_store_stats()["x509"]:
            raise FileNotFoundError(errno.ENOENT, "no file in it")


def _load(step: Callable[[], object], what: str) -> None:
    try:
        step()
    except ssl.SSLError as error:
        reason = error.reason or "it is not PEM"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not usable"
    else:
        return
    raise VaultUnavailable(f"{what} cannot be used: {reason}", retryable=False, created_nothing=True)


class TLSAdapter(HTTPAdapter):
    """
    An adapter of requests with a TLS context of ours, which requests would otherwise change by each request's *verify*.
    """

    def __init__(self, context: ssl.SSLContext, server_name: str | None) -> None:
        self._ours: dict[str, Any] = {"ssl_context": context}
        if server_name is not None:
            self._ours |= {"server_hostname": server_name}
        super().__init__(pool_maxsize=_CONNECTIONS_KEPT)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """
        Make the pools of direct connections with our context.
        """
        super().init_poolmanager(connections, maxsize, block, **self._ours, **options)

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        """
        Make the pools of connections through *proxy* with our context.
        """
        return super().proxy_manager_for(proxy, **self._ours, **options)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:  # noqa: ARG002
        """
        Leave *verify* and *cert* out of account (requests 2.32 and later).
        """
        host, _ = super().build_connection_pool_key_attributes(request, True, None)
        return host, {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """
        Leave the connection as it was made.
        """


# --- Sockets of this machine -------------------------------------------------------------------------------


class SocketConnection(HTTPConnection):
    """
    HTTP over the Unix socket at *path*.
    """

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(**options)
        self._path = path

    def connect(self) -> None:
        """
        Dial the socket.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            raise NewConnectionError(self, f"{self._path}: {error.strerror}") from error
        self.sock = sock


class SocketAdapter(HTTPAdapter):
    """
    An adapter of requests, whose requests all go to the Unix socket at *path*.
    """

    def __init__(self, path: str) -> None:
        self.pool = HTTPConnectionPool("localhost", maxsize=_CONNECTIONS_KEPT)
        self.pool.ConnectionCls = functools.partial(SocketConnection, path)  # type: ignore[assignment]
        super().__init__()

    def get_connection_with_tls_context(self, *_args: Any, **_options: Any) -> HTTPConnectionPool:
        """
        Return the one pool (requests 2.32 and later).
        """
        return self.pool

    def get_connection(self, *_args: Any, **_options: Any) -> HTTPConnectionPool:
        """
        Return the one pool (requests before 2.32).
        """
        return self.pool
