"""
Vault to test against: the development server always, a real OpenBao and a real Vault where there is one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fix_postgres import Database, Login

BINARIES = "VAULT_POOL_TEST_VAULT_BIN"
#: Which servers to test against, by commas: devserver, bao, vault, or images such as "hashicorp/vault:1.20".
SERVERS = "VAULT_POOL_TEST_VAULT"

# The shell holds the server, and we the shell's standard input: when we die, it ends the server.
_WITH_US = '"$@" & read -r _; kill "$!"; wait'

# It ends when we close its standard input, or die.
_DEVELOPMENT_SERVER = """
import os, sys
from vault_pool.devserver import DevServer
with DevServer(root_token=os.environ["VAULT_DEV_ROOT_TOKEN_ID"]) as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""

# Environment proxies are for the world outside, not for loopback.
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class AppRoleLogin(NamedTuple):
    """What an application needs to log in, and the role's name for administrators."""

    mount_point: str
    name: str
    role_id: str
    secret_id: str


class VaultServer:
    """
    A running Vault, and names of its own for one test: database mount `mount`, AppRole mount, policies.

    `kind` is "devserver", "bao" or "vault".
    """

    def __init__(self, kind: str, address: str, root_token: str) -> None:
        self.kind = kind
        self.address = address
        self.root_token = root_token
        #: Of its processes, where they are ours.
        self.process_group: int | None = None
        self._suffix = secrets.token_hex(4)
        self.mount = f"database-{self._suffix}"
        self._cleanups = contextlib.ExitStack()
        self._done: set[str] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind}, {self.address})"

    def api(
        self, method: str, path: str, body: Any = None, token: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """
        Send one request (*token* None: the root token, "": none); return status and body.

        *path* is without /v1/, unless it begins with a slash.
        """
        request = urllib.request.Request(
            self.address + (path if path.startswith("/") else f"/v1/{path}"),
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        token = self.root_token if token is None else token
        if token:
            request.add_header("X-Vault-Token", token)
        try:
            answer = _HTTP.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else {}

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> dict[str, Any]:
        """Do the same, and insist on success."""
        status, answer = self.api(method, path, body, token)
        assert status < 300, f"{method} {path}: {status} {answer.get('errors')}"
        return answer

    @contextlib.contextmanager
    def fault(self, kind: str, **settings: Any) -> Iterator[Callable[[], int]]:
        """
        Let the development server have a fault inside the block (the kinds are those of vault_pool.devserver.faults).

        Gives a function that tells how many requests have met it.
        """
        if self.kind != "devserver":
            pytest.skip(f"only the development server can be made to fail: this is {self.kind}")
        one = f"/devserver/faults/{self.ask('POST', '/devserver/faults', {'fault': kind, **settings})['id']}"
        try:
            yield lambda: int(self.ask("GET", one)["met"])
        finally:
            self.api("DELETE", one)

    def database_role(
        self,
        database: Database,
        name: str = "app",
        *,
        default_ttl: str | int = "1h",
        max_ttl: str | int = "24h",
        port: int | None = None,
        **more: Any,
    ) -> str:
        """
        Let role *name* of mount `mount` create logins in *database*; return *name*. Again: changes the role.

        Without *creation_statements* among *more* the logins are members of the database's group.
        *port* is that of a proxy in front of PostgreSQL.
        """
        self.database_config(database, port=port)
        create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
        role = {
            "db_name": database.name,
            "default_ttl": default_ttl,
            "max_ttl": max_ttl,
            "creation_statements": [f'{create} IN ROLE "{database.group}";'],
        }
        self.ask("POST", f"{self.mount}/roles/{name}", {**role, **more})
        return name

    def database_config(self, database: Database, *, port: int | None = None) -> str:
        """Mount the database engine and connect it to *database*, unless that is done; return the config's name."""
        if self.mount not in self._done:
            self._done.add(self.mount)
            self.ask("POST", f"sys/mounts/{self.mount}", {"type": "database"})
            self._cleanups.callback(self.api, "DELETE", f"sys/mounts/{self.mount}")
            # Before the database goes, so that Vault does not go on trying to revoke roles in it.
            database.before_drop.callback(self._forget_leases)
        if f"{database.name}:{port}" not in self._done:
            self._done.add(f"{database.name}:{port}")
            self.ask(
                "POST",
                f"{self.mount}/config/{database.name}",
                {
                    "plugin_name": "postgresql-database-plugin",
                    "allowed_roles": "*",
                    "connection_url": database.connection_url(port=port),
                    "username": database.admin.user,
                    "password": database.admin.password,
                },
            )
        return database.name

    def creds(self, name: str = "app", token: str | None = None) -> tuple[Login, dict[str, Any]]:
        """Read credentials of role *name*; return them and the whole answer."""
        answer = self.ask("GET", f"{self.mount}/creds/{name}", token=token)
        return Login(answer["data"]["username"], answer["data"]["password"]), answer

    def policy(self, rules: str | None = None) -> str:
        """Write a policy, by default for reading credentials of this mount and caring for leases; return its name."""
        name = f"policy-{self._suffix}-{secrets.token_hex(2)}"
        if rules is None:
            paths = [f"{self.mount}/creds/*"]
            rules = "".join(f'path "{path}" {{ capabilities = ["read"] }}\n' for path in paths)
            rules += 'path "sys/leases/*" { capabilities = ["update"] }\n'
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": rules})
        self._cleanups.callback(self.api, "DELETE", f"sys/policies/acl/{name}")
        return name

    def token(self, *policies: str, **more: Any) -> str:
        """Create a token with *policies* (default: that of `policy()`) and whatever else auth/token/create takes."""
        body = {"policies": list(policies) or [self.policy()], **more}
        made: str = self.ask("POST", "auth/token/create", body)["auth"]["client_token"]
        return made

    def approle(self, *policies: str, name: str = "app", **more: Any) -> AppRoleLogin:
        """Create an AppRole with *policies* (default: that of `policy()`), token_ttl and the like."""
        mount = f"approle-{self._suffix}"
        if mount not in self._done:
            self._done.add(mount)
            self.ask("POST", f"sys/auth/{mount}", {"type": "approle"})
            self._cleanups.callback(self.api, "DELETE", f"sys/auth/{mount}")
        role = f"auth/{mount}/role/{name}"
        self.ask("POST", role, {"token_policies": list(policies) or [self.policy()], **more})
        role_id = self.ask("GET", f"{role}/role-id")["data"]["role_id"]
        secret_id = self.ask("POST", f"{role}/secret-id", {})["data"]["secret_id"]
        return AppRoleLogin(mount, name, role_id, secret_id)

    def leases(self, prefix: str | None = None) -> list[str]:
        """Return the ids of the leases below *prefix*, by default of this test's database mount."""
        prefix = (prefix or f"{self.mount}/creds").rstrip("/")
        status, answer = self.api("LIST", f"sys/leases/lookup/{prefix}/")
        if status == 404:
            return []
        found = []
        for key in answer["data"]["keys"]:
            found += self.leases(f"{prefix}/{key}") if key.endswith("/") else [f"{prefix}/{key}"]
        return found

    def revoke(self, lease_id: str) -> None:
        """Revoke one lease, and wait for it."""
        self.ask("PUT", "sys/leases/revoke", {"lease_id": lease_id, "sync": True})

    def revoke_all(self) -> None:
        """Revoke every lease of this test's database mount, and wait for it."""
        self.ask("PUT", f"sys/leases/revoke-prefix/{self.mount}/creds", {"sync": True})

    def pause(self) -> None:
        """Stop the server where it stands: it answers nobody, and nothing happens at its time."""
        assert self.process_group is not None
        os.killpg(self.process_group, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        assert self.process_group is not None
        os.killpg(self.process_group, signal.SIGCONT)

    def close(self) -> None:
        """Remove what this test made."""
        self._forget_leases()
        self._cleanups.close()

    def _forget_leases(self) -> None:
        self.api("PUT", f"sys/leases/revoke-force/{self.mount}", {})


@contextlib.contextmanager
def real_server(binary: Path, home: Path) -> Iterator[VaultServer]:
    """Run *binary* (`bao` or `vault`) in development mode, with *home* for all that it writes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    token = secrets.token_hex(16)
    # By environment: arguments are for everybody to read.
    environment = {"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home)}
    environment |= {f"{brand}_DEV_ROOT_TOKEN_ID": token for brand in ("VAULT", "BAO")}
    version = subprocess.run([binary, "version"], capture_output=True, text=True, check=True, env=environment).stdout
    arguments = ["server", "-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}", "-log-level=warn"]
    server = VaultServer("bao" if "OpenBao" in version else "vault", f"http://127.0.0.1:{port}", token)
    with (home / "log").open("wb") as log:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _WITH_US, "sh", binary, *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=home,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait_until_unsealed(server, home / "log")
        server.process_group = shell.pid
        yield server
    finally:
        shell.communicate()


def _wait_until_unsealed(server: VaultServer, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            # The token, too: development mode sets it after it unsealed.
            if server.api("GET", "auth/token/lookup-self")[0] == 200:
                return
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:].replace(server.root_token, "***")
    raise RuntimeError(f"{server} did not start: {tail}")


def _servers() -> list[Any]:
    """The parameters of `vault_process`: the development server, and each real server, found or missing."""
    given = [Path(path) for path in os.environ.get(BINARIES, "").split(os.pathsep) if path]
    parameters: list[Any] = [pytest.param("devserver", id="devserver")]
    if wanted := [name.strip() for name in os.environ.get(SERVERS, "").split(",") if name.strip()]:
        return [pytest.param(name, marks=pytest.mark.docker if ":" in name else []) for name in wanted]
    for name in ("bao", "vault"):
        binaries = [path for path in given if name in path.name]
        if not binaries and (on_path := shutil.which(name)):
            binaries = [Path(on_path)]
        parameters += [pytest.param(path, id=path.name, marks=pytest.mark.contract) for path in binaries]
        if not binaries:
            missing = pytest.mark.skip(reason=f"no `{name}` on PATH nor in {BINARIES}")
            parameters.append(pytest.param(name, id=name, marks=[pytest.mark.contract, missing]))
    return parameters


@contextlib.contextmanager
def development_server(environment: dict[str, str] | None = None) -> Iterator[VaultServer]:
    """
    Run the development server in a process of its own: its threads and its work are not those of the tests.

    *environment* is added to that of this process.
    """
    token = secrets.token_hex(16)
    child = subprocess.Popen(
        [sys.executable, "-c", _DEVELOPMENT_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {}), "VAULT_DEV_ROOT_TOKEN_ID": token},
        start_new_session=True,
    )
    with child:
        address = child.stdout.readline().strip()
        if not address:
            raise RuntimeError("the development server did not start")
        server = VaultServer("devserver", address, token)
        server.process_group = child.pid
        yield server
        child.stdin.close()


@contextlib.contextmanager
def running(kind: str | Path) -> Iterator[VaultServer]:
    """Run the development server ("devserver"), or a real one: *kind* is its binary, the name of that, or an image."""
    if kind == "devserver":
        with development_server() as server:
            yield server
        return
    if ":" in str(kind):
        from tests.fix_containers import vault_container

        with vault_container(str(kind)) as server:
            yield server
        return
    binary = kind if isinstance(kind, Path) else shutil.which(kind)
    if binary is None:
        raise RuntimeError(f"no `{kind}` on PATH")
    with tempfile.TemporaryDirectory(prefix="vault_pool-") as home, real_server(Path(binary), Path(home)) as server:
        yield server


@pytest.fixture(scope="session", params=_servers())
def vault_process(request) -> Iterator[VaultServer]:
    """A running Vault for all tests; `vault_server` is what a test asks for."""
    with running(request.param) as server:
        yield server


@pytest.fixture
def vault_server(vault_process) -> Iterator[VaultServer]:
    """A Vault with mounts and names that belong to this test alone, removed after it."""
    server = VaultServer(vault_process.kind, vault_process.address, vault_process.root_token)
    server.process_group = vault_process.process_group
    yield server
    server.close()
