"""
A server without sockets, whose clock only tests move.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from vault_pool.devserver import DevServer, ManualClock
from vault_pool.devserver.errors import BackendError
from vault_pool.devserver.framework import Fields, Reply, Request, Route, Secret
from vault_pool.devserver.leases import Lease
from vault_pool.devserver.mounts import Mount
from vault_pool.devserver.ttl import Limits, Wish


class Vending:
    """An engine that hands out numbers at `creds/x`, and remembers what was renewed and revoked."""

    kind = "vending"
    open_paths = ()
    sudo_paths = ()

    def __init__(self) -> None:
        self.wish = Wish(ttl=10, max_ttl=30)
        self.issued: list[int] = []
        self.renewed: list[int] = []
        self.revoked: list[int] = []
        self.failure: str | None = None
        self.on_issue: Any = lambda: None
        self.routes = [Route(pattern="creds/x", operations={"read": self._creds})]

    def _creds(self, _request: Request, _fields: Fields) -> Reply:
        self.issued.append(len(self.issued))
        self.on_issue()
        return Reply(data={"number": self.issued[-1]}, secret=Secret(wish=self.wish, internal={"n": self.issued[-1]}))

    def renew(self, lease: Lease, _increment: int, _limits: Limits) -> Wish:
        self._fail()
        self.renewed.append(lease.internal["n"])
        return self.wish

    def revoke(self, lease: Lease) -> None:
        self._fail()
        self.revoked.append(lease.internal["n"])

    def _fail(self) -> None:
        if self.failure is not None:
            raise BackendError(self.failure)

    def close(self) -> None:
        pass


class Api:
    """A server's API in short words; the engine `vending` is mounted at `v`."""

    def __init__(self, server: DevServer, clock: ManualClock) -> None:
        self.server = server
        self.clock = clock
        self.root = server.root_token
        self.vending = Vending()
        server.core.mounts.add(Mount(path="v/", engine=self.vending))

    def ask(self, method: str, path: str, body: Any = None, token: str | None = "root", **headers: str) -> Any:
        """Return status and body; *token* "root" is the root token."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.server.request(method, path, body, self.root if token == "root" else token, named)

    def ok(self, method: str, path: str, body: Any = None, token: str | None = "root", **headers: str) -> Any:
        """Return the body of a success."""
        status, answer = self.ask(method, path, body, token, **headers)
        assert status < 400, answer
        return answer

    def refusal(self, method: str, path: str, body: Any = None, token: str | None = "root", **headers: str) -> Any:
        """Return status and errors of a refusal."""
        status, answer = self.ask(method, path, body, token, **headers)
        assert status >= 400, answer
        return status, *answer["errors"]

    def token(self, *policies: str, **fields: Any) -> str:
        """Return a new token."""
        return self.server.add_token(policies, **fields)

    def lease(self, token: str | None = "root") -> str:
        """Return the id of a new lease of the vending engine."""
        return self.ok("GET", "v/creds/x", token=token)["lease_id"]


@contextlib.contextmanager
def running(start: float = 1_800_000_000.25, **settings: Any) -> Iterator[Api]:
    """Run a server of *settings* whose clock begins at *start*."""
    clock = ManualClock(start)
    with DevServer(clock=clock, listen=False, **settings) as server:
        yield Api(server, clock)


@pytest.fixture
def api() -> Iterator[Api]:
    with running() as api:
        yield api


@pytest.fixture
def vault_api() -> Iterator[Api]:
    """The same in the flavor of Vault."""
    with running(flavor="vault") as api:
        yield api


@pytest.fixture
def policy() -> str:
    return 'path "v/creds/*" { capabilities = ["read"] }\npath "sys/leases/revoke" { capabilities = ["update"] }'
