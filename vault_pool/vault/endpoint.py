"""
Where Vault is, and how to get there: the settings of the way, checked.
"""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from vault_pool.errors import ConfigurationError
from vault_pool.vault import environment
from vault_pool.vault.notices import warn_once
from vault_pool.vault.secret import Secret

_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """
    Where Vault is, and how to get there.

    *addresses* are tried in order. *timeout* (seconds) bounds a request with all its attempts, up to the answer's first
    byte, and each wait for more of it.
    *verify* is True, False, the path of a CA file, that of a folder of CA files, or the certificates themselves (PEM).
    *cert* is the path of a client certificate, or of it and of its key. *tls_server_name* is the name that the
    server's certificate has to bear, where it is not that of the address.
    *proxies* maps a scheme to the URL of an HTTP proxy, which may hold a password, and "no" to the hosts that are
    reached without one.
    """

    addresses: tuple[str, ...]
    timeout: float
    verify: bool | str = True
    namespace: str | None = None
    cert: str | tuple[str, str] | None = None
    tls_server_name: str | None = None
    proxies: Mapping[str, Secret] = field(default_factory=dict)
    follow_redirects: bool = True

    @property
    def address(self) -> str:
        """
        The first address.
        """
        return self.addresses[0]

    @property
    def place(self) -> str:
        """
        The words by which logs name it: host and port of the first address, or the path of its socket.
        """
        parts = urlsplit(self.address)
        return parts.netloc or parts.path


def checked_addresses(address: str | Iterable[str]) -> tuple[str, ...] | str:
    """
    Return the addresses of the setting, or what is wrong with them. Raises nothing.

    A user and password do not belong into an address, but who wrote them there must not find them in an error report.
    """
    addresses = (address,) if isinstance(address, str) else _listed(address)
    if not addresses:
        return _NO_URL
    found = [_inspected(each) for each in addresses]
    problems = [problem for _, problem in found if problem]
    return problems[0] if problems else tuple(dict.fromkeys(sound for sound, _ in found))


_NO_URL = "address (VAULT_ADDR) must be a URL such as https://vault.example.com:8200, or unix:///run/vault.sock"


def _listed(address: object) -> tuple[object, ...]:
    return tuple(address) if isinstance(address, Iterable) and not isinstance(address, (bytes, Mapping)) else ()


def _inspected(address: object) -> tuple[str, str]:
    if not isinstance(address, str):
        return "", _NO_URL
    try:
        parts = urlsplit(address)
        if parts.scheme == "unix":
            sound = not parts.netloc and len(parts.path) > 1
        else:
            sound = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
    except ValueError:
        sound = False
    if not sound:
        return "", _NO_URL
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "", "address (VAULT_ADDR) must hold a host, a port and a path at most: no user, no query"
    return address.rstrip("/"), ""


def checked_proxies(proxy: str | Mapping[str, str] | None) -> dict[str, Secret] | str:
    """
    Return the proxies for the setting *proxy*, or what is wrong with it. Raises nothing: it may hold a password.

    None leaves it to ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``; an empty text is for none at all.
    A mapping is requests' own.
    """
    if proxy is None:
        proxy = environment.proxies()
    if isinstance(proxy, Mapping):
        return {scheme: Secret(url) for scheme, url in proxy.items()}
    if not proxy:
        return {}
    try:
        parts = urlsplit(proxy)
        sound = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except (ValueError, AttributeError, TypeError):
        sound = False
    if not sound:
        return "proxy (VAULT_PROXY_ADDR, VAULT_HTTP_PROXY) must be the URL of an HTTP proxy, as http://proxy:3128"
    return {"http": Secret(proxy), "https": Secret(proxy)}


def checked_verify(verify: bool | str | os.PathLike[str]) -> bool | str:
    """
    Return the setting *verify*; where it is True, what ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE`` names goes first.

    These two are read for those who come from hvac or requests. ``~/.netrc``, which requests reads as well, is not:
    what stands there would be sent along with the token.
    """
    if verify is True:
        return next((os.environ[name] for name in _BUNDLES if os.environ.get(name)), True)
    if verify is False:
        return False
    if not isinstance(verify, (str, os.PathLike)) or not os.fspath(verify):
        raise ConfigurationError(
            f"verify (VAULT_CACERT, VAULT_CAPATH) must be True, False or a path of CA certificates, not {verify!r}"
        )
    return os.fspath(verify)


def checked_cert(cert: object) -> str | tuple[str, str] | None:
    """
    Return the setting *cert*: None, the path of a certificate with its key, or the paths of the two.
    """
    if cert is None or cert == "":
        return None
    if isinstance(cert, (str, os.PathLike)):
        return os.fspath(cert)
    if (
        isinstance(cert, (tuple, list))
        and len(cert) == 2
        and all(isinstance(each, (str, os.PathLike)) for each in cert)
    ):
        return os.fspath(cert[0]), os.fspath(cert[1])
    raise ConfigurationError(
        "cert (VAULT_CLIENT_CERT, VAULT_CLIENT_KEY) must be the path of a client certificate, or of it and of its key"
    )


def checked_timeout(timeout: float) -> float:
    """
    Return *timeout* if it is a positive, finite number of seconds; raise `ConfigurationError` otherwise.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ConfigurationError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return float(timeout)


def warn(endpoint: Endpoint, stacklevel: int) -> None:
    """
    Warn of settings that let others read along, once each.
    """
    for address in endpoint.addresses:
        parts = urlsplit(address)
        if endpoint.verify is False and parts.scheme == "https":
            warn_once(
                f"the TLS certificate of {address} is not verified (verify, VAULT_SKIP_VERIFY): "
                "anybody on the way can read the credentials",
                stacklevel + 1,
            )
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            warn_once(
                f"{address} is not encrypted: anybody on the way can read the credentials; use https", stacklevel + 1
            )


def is_loopback(host: str) -> bool:
    """
    Return whether *host* is this machine.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
