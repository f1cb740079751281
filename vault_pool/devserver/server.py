"""
The development server: Vault's HTTP API on a real PostgreSQL, in memory, for demos and tests.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vault_pool.devserver.clock import Clock, SystemClock
from vault_pool.devserver.core import Core
from vault_pool.devserver.errors import ConnectionDropped
from vault_pool.devserver.exchange import HttpRequest
from vault_pool.devserver.faults import Faults, Injection, check
from vault_pool.devserver.flavor import FLAVORS
from vault_pool.devserver.front import Front
from vault_pool.devserver.kv_versioned import VersionedKvEngine
from vault_pool.devserver.ldap_directory import MemoryDirectory
from vault_pool.devserver.mfa import IdentityEngine
from vault_pool.devserver.mounts import Mount
from vault_pool.devserver.shortcuts import Shortcuts
from vault_pool.devserver.system import SystemEngine
from vault_pool.devserver.tls import ThrowawayCertificate
from vault_pool.devserver.token_engine import TokenEngine
from vault_pool.devserver.token_entry import Auth
from vault_pool.devserver.web import WebServer

if TYPE_CHECKING:
    from typing_extensions import Self


class DevServer(Shortcuts):
    """
    Vault's API from `start()` (or ``with``) until `close()`; nothing is kept. Not for production. Thread-safe.

    *root_token*: None makes a random one. *host* other than a loopback address needs *allow_remote*. *port* 0: the
    system chooses. *flavor*: "openbao" (2.5), "vault" (1.14) or "vault-1.17". *tls*: with a certificate of its own,
    whose authority is in `ca_file`. *clock*: with a `ManualClock` nothing ends by itself, see `step()`. *listen* False:
    no socket, only `request()`. *revoke_on_close*: drop the database roles that are left, as far as the databases
    answer within *close_timeout* seconds. Raises ValueError for an impossible setting.
    """

    def __init__(
        self,
        root_token: str | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        flavor: str = "openbao",
        tls: bool = False,
        allow_remote: bool = False,
        clock: Clock | None = None,
        listen: bool = True,
        revoke_on_close: bool = True,
        close_timeout: float = 10.0,
    ) -> None:
        if flavor not in FLAVORS:
            raise ValueError(f"flavor must be one of {', '.join(sorted(FLAVORS))}")
        if not allow_remote and not _is_loopback(host):
            raise ValueError(f"{host} is no loopback address; allow_remote=True would let the network in")
        self.root_token = root_token or f"dev-{secrets.token_urlsafe(18)}"
        self.port = port
        self.faults = Faults()
        self._host = host
        self._flavor = FLAVORS[flavor]
        self._tls = tls
        self._clock = clock or SystemClock()
        self._listen = listen
        self._revoke_on_close = revoke_on_close
        self._close_timeout = close_timeout
        self._certificate: ThrowawayCertificate | None = None
        self._web: WebServer | None = None
        self._core: Core | None = None
        self._front: Front | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(address={self.address!r}, flavor={self._flavor.name!r})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def address(self) -> str:
        """
        The base URL.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http{'s' if self._tls else ''}://{host}:{self.port}"

    @property
    def ca_file(self) -> str | None:
        """
        The path of the authority's certificate; None without TLS.
        """
        return None if self._certificate is None else self._certificate.ca_file

    @property
    def core(self) -> Core:
        """
        The state behind the API, for tests that look inside.
        """
        if self._core is None:
            raise RuntimeError("the development server is not running")
        return self._core

    def start(self) -> None:
        """
        Listen.
        """
        if self._core is not None:
            raise RuntimeError("the development server is running already")
        core = Core(self._flavor, self._clock, self.faults)
        core.mounts.add(Mount(path="sys/", engine=SystemEngine(core), description="system endpoints"))
        core.mounts.add(Mount(path="auth/token/", engine=TokenEngine(core), description="token based credentials"))
        options, kept = {"version": "2"}, "key/value secret storage"
        core.mounts.add(Mount(path="secret/", engine=VersionedKvEngine(core), description=kept, options=options))
        core.mounts.add(Mount(path="identity/", engine=IdentityEngine(core), description="identity store"))
        root = Auth(policies=["root"], renewable=False)
        core.tokens.issue(root, "auth/token/create", core.limits("auth/token/"), token_id=self.root_token)
        self._core, self._front = core, Front(core)
        if self._listen:
            try:
                self._certificate = ThrowawayCertificate() if self._tls else None
                self._web = WebServer(self._front, self._host, self.port, self._certificate)
            except BaseException:
                self.close()
                raise
            self.port = self._web.port
            core.logins.over_tls, core.logins.on_client_authority = self._tls, self._web.trust_clients

    def close(self) -> None:
        """
        Stop; leave no thread, no session and, if so wished, no database role behind. Twice does no harm.
        """
        self.faults.clear()
        core, self._core = self._core, None
        if self._web is not None:
            self._web.close()
            self._web = None
        if core is not None:
            self._let_go(core)
        if self._certificate is not None:
            self._certificate.close()
            self._certificate = None

    def _let_go(self, core: Core) -> None:
        """
        End background work and sessions, after the database roles if so wished.
        """
        mounts = core.mounts.all()
        core.leases.timers.pause(True)
        # A database that hangs must not hold us for ever: without its sessions every operation on it fails at once.
        bound = threading.Timer(self._close_timeout, _close_engines, [mounts])
        bound.name = "devserver-close"
        bound.start()
        if self._revoke_on_close:
            for mount in mounts:
                if not mount.is_auth:
                    core.leases.revoke_prefix(mount.path, force=True)
        bound.cancel()
        bound.join()
        _close_engines(mounts)
        core.leases.timers.close()

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any] | None]:
        """
        Answer a request without a socket; *path* begins with ``/v1/`` or behind it. Return status and body.

        Raise ConnectionResetError where the connection would end without a whole answer.
        """
        if self._front is None:
            raise RuntimeError("the development server is not running")
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if token is not None:
            sent["x-vault-token"] = token
        target = path if path.startswith("/") else f"/v1/{path}"
        raw = b"" if body is None else json.dumps(body).encode()
        answer = self._front.handle(HttpRequest(method=method, target=target, headers=sent, body=raw))
        if answer.cut:
            raise ConnectionDropped
        return answer.status, answer.body

    def seal(self) -> None:
        """
        Seal, as an operator would.
        """
        self.core.seal()

    def unseal(self) -> None:
        """
        Unseal; what fell due meanwhile ends now.
        """
        self.core.unseal()

    @property
    def directory(self) -> MemoryDirectory:
        """
        The people who may log in by LDAP, at an `ldap` method whose config has no `url`.
        """
        return self.core.logins.directory

    def inject(self, kind: str, /, **settings: Any) -> Injection:
        """
        Put a fault in force, until its `end()` or the end of a ``with`` block on it.

        The kinds are those of `vault_pool.devserver.faults`. Raise ValueError that names the setting.
        """
        return self.faults.inject(check(kind, **settings))

    def step(self, seconds: float = 0.0) -> None:
        """
        Move the `ManualClock` and do, in this thread, what falls due on the way; 0 does what was put off.
        """
        self.core.leases.timers.step(seconds)


def _close_engines(mounts: Sequence[Mount]) -> None:
    for mount in mounts:
        mount.engine.close()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
