"""
The servers that a scenario can be replayed against: the development server, and the real ones.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from tests.fix_vault import BINARIES, real_server
from vault_pool.devserver import DevServer, ManualClock

ROOT_TOKEN = "root"


class Answer(NamedTuple):
    """One answer; *status* None: the server closed the connection without one."""

    status: int | None
    headers: Mapping[str, str]
    body: Any


class Target(NamedTuple):
    """
    A running server with the root token `root`, and the clock that it goes by.

    *advance* moves on to an instant; *now* tells it. *exact*: the instant is exactly what was asked for.
    """

    address: str
    unseal_key: str
    now: Callable[[], float]
    advance: Callable[[float], None]
    exact: bool


@contextlib.contextmanager
def target(kind: str, flavor: str, *, manual: bool = False) -> Iterator[Target]:
    """Run *kind*: "devserver" in *flavor*, on a manual clock if so wished, or the binary "bao" or "vault"."""
    if kind != "devserver":
        with _real(kind) as (address, key):
            yield Target(address, key, time.time, _sleep_until, exact=False)
        return
    clock = ManualClock(float(int(time.time()))) if manual else None
    with DevServer(root_token=ROOT_TOKEN, flavor=flavor, clock=clock, revoke_on_close=False) as server:
        key = server.core.unseal_key
        if clock is None:
            yield Target(server.address, key, time.time, _sleep_until, exact=False)
        else:
            yield Target(server.address, key, clock.now, lambda at: server.step(max(0, at - clock.now())), exact=True)


def find_binary(name: str) -> str | None:
    """Return the path of `bao` or `vault`: as the environment names it, or on PATH."""
    given = [Path(path) for path in os.environ.get(BINARIES, "").split(os.pathsep) if path]
    return next((str(path) for path in given if name in path.name), None) or shutil.which(name)


@contextlib.contextmanager
def _real(name: str) -> Iterator[tuple[str, str]]:
    binary = find_binary(name)
    if binary is None:
        raise SystemExit(f"no `{name}` on PATH nor in {BINARIES}")
    with (
        tempfile.TemporaryDirectory(prefix="contract-") as folder,
        real_server(Path(binary), Path(folder)) as server,
    ):
        # As dev mode itself does it: a root token with an id of one's own, and the first one revoked.
        wanted = {"id": ROOT_TOKEN, "policies": ["root"], "no_parent": True, "no_default_policy": True}
        server.ask("POST", "auth/token/create", wanted)
        server.ask("POST", "auth/token/revoke-self")
        yield server.address, _unseal_key(Path(folder) / "log")


def _unseal_key(log: Path) -> str:
    """Return what dev mode prints, soon after it began to answer."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if found := re.search(r"Unseal Key: (\S+)", log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError("the server did not print its unseal key")


def _sleep_until(instant: float) -> None:
    time.sleep(max(0.0, instant - time.time()))


def send(address: str, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
    """Do one exchange on a connection of its own."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    try:
        connection.putrequest(method, quote(path, safe="/?=&%:~+*"), skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None or method in {"POST", "PUT", "PATCH"}:
            connection.putheader("Content-Length", str(len(body or b"")))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A body that is too large may be refused before its end.
            connection.endheaders(body)
        try:
            response = connection.getresponse()
            raw = response.read()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return Answer(None, {}, None)
        return Answer(response.status, dict(response.getheaders()), _decoded(raw))
    finally:
        connection.close()


def _decoded(raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")
