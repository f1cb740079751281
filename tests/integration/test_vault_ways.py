"""
Ways to real servers: TLS with client certificates, and a Vault Agent with its cache, by TCP and by a Unix socket.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time

import pytest

from tests import identities
from tests.fix_vault import _WITH_US
from vault_pool import AgentToken, DynamicRole, TLSCertificate, Token, Vault, VaultDenied, VaultPool, VaultUnavailable
from vault_pool.runtime.clock import SystemClock
from vault_pool.vault.secret import Secret

now = SystemClock().now

pytestmark = pytest.mark.contract


def until(condition, seconds=15.0):
    """Wait until *condition* holds; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def program(home, *command, **environment):
    """Run *command*, which ends with us; what it says is in *home*."""
    with (home / "log").open("wb") as log:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _WITH_US, "sh", *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=home,
            env={"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home), **environment},
            start_new_session=True,
        )
    try:
        yield
    finally:
        shell.communicate()


# --- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["bao", "vault"])
def tls_vault(request, tmp_path_factory):
    """A real server with TLS: its address, its CA file, and a Vault with its root token."""
    binary = shutil.which(request.param) or pytest.skip(f"no `{request.param}` on PATH")
    home, port, token = tmp_path_factory.mktemp("tls"), free_port(), secrets.token_hex(16)
    arguments = ["-dev", "-dev-tls", f"-dev-tls-cert-dir={home}", "-dev-no-store-token"]
    root = {f"{brand}_DEV_ROOT_TOKEN_ID": token for brand in ("VAULT", "BAO")}
    with program(home, binary, "server", *arguments, f"-dev-listen-address=127.0.0.1:{port}", **root):
        until(lambda: list(home.glob("*-ca.pem")))
        address = f"https://127.0.0.1:{port}"
        vault = Vault(address, auth=Token(token), verify=next(home.glob("*-ca.pem")))

        def ready():
            with contextlib.suppress(VaultUnavailable, VaultDenied):
                return vault.request("GET", "auth/token/lookup-self", token=Secret(token))

        until(ready)
        yield address, next(home.glob("*-ca.pem")), lambda *words: vault.request(*words, token=Secret(token))
        vault.close()


def test_a_login_by_client_certificate(tls_vault, tmp_path):
    """It is read again at each login; its successor logs in anew where the token is bound to it."""
    address, ca, ask = tls_vault
    authority = identities.Authority(tmp_path)
    ask("POST", "sys/auth/cert", {"type": "cert"})
    ask("POST", "auth/cert/certs/app", {"certificate": authority.pem, "policies": "default", "ttl": "60s"})
    cert = authority.issue("app")
    with contextlib.ExitStack() as stack:

        def logged_in(**settings):
            vault = Vault(address, verify=ca, cert=cert, auth=TLSCertificate(**settings))
            stack.callback(vault.close)
            return vault, vault.call("GET", "auth/token/lookup-self").data

        for settings in ({}, {"role": "app"}):
            vault, token = logged_in(**settings)
            assert (token["path"], token["meta"]["common_name"]) == ("auth/cert/login", "app")
        with pytest.raises(VaultDenied, match="login was refused"):
            logged_in(role="other")
        serial = token["meta"]["serial_number"]
        authority.issue("app")
        ask("POST", "auth/token/revoke-accessor", {"accessor": token["accessor"]})
        assert vault.call("GET", "auth/token/lookup-self").data["meta"]["serial_number"] != serial
    ask("DELETE", "sys/auth/cert")


def test_a_login_without_a_matching_certificate_is_refused(tls_vault, tmp_path):
    """One of another authority is no way in."""
    address, ca, ask = tls_vault
    ask("POST", "sys/auth/cert", {"type": "cert"})
    pem = identities.Authority(tmp_path).pem
    ask("POST", "auth/cert/certs/app", {"certificate": pem, "policies": "default"})
    vault = Vault(address, verify=ca, cert=identities.Authority(tmp_path).issue("app"), auth=TLSCertificate())
    with pytest.raises(VaultDenied, match="login was refused"):
        vault.call("GET", "auth/token/lookup-self")
    vault.close()
    ask("DELETE", "sys/auth/cert")


# --- Vault Agent -------------------------------------------------------------------------------------------

AGENT = """
pid_file = "pid"
vault {{ address = "{address}" }}
auto_auth {{
  method "approle" {{
    mount_path = "auth/{mount}"
    config = {{
      role_id_file_path = "role_id"
      secret_id_file_path = "secret_id"
      remove_secret_id_file_after_reading = false
    }}
  }}
  sink "file" {{ config = {{ path = "{home}/sink" }} }}
}}
cache {{ use_auto_auth_token = true }}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_disable = true
  require_request_header = true
}}
listener "unix" {{
  address = "{home}/s"
  tls_disable = true
  require_request_header = true
}}
"""


@pytest.fixture
def agent(vault_server, database, tmp_path_factory):
    """An agent of the server's own make, logged in by AppRole, with a cache: its folder and its TCP address."""
    if vault_server.kind not in ("bao", "vault"):
        pytest.skip(f"there is no agent of {vault_server.kind}")
    vault_server.database_role(database)
    login = vault_server.approle()
    home, port = tmp_path_factory.mktemp("a"), free_port()
    (home / "role_id").write_text(login.role_id)
    (home / "secret_id").write_text(login.secret_id)
    config = AGENT.format(address=vault_server.address, mount=login.mount_point, home=home, port=port)
    (home / "agent.hcl").write_text(config)
    with program(home, shutil.which(vault_server.kind), "agent", "-config=agent.hcl"):
        until(lambda: (home / "sink").exists() and (home / "s").exists())
        yield home, f"http://127.0.0.1:{port}"


def test_an_agent_adds_its_token_and_its_cache_does_not_stop_rotation(agent, vault_server, database):
    """Requests carry no token; each rotation brings a new role, though the agent keeps the answers it has seen."""
    home, tcp = agent
    for address in (f"unix://{home}/s", tcp):
        vault = Vault(address, auth=AgentToken())
        source = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
        users = set()
        with VaultPool(database.conninfo(), source=source, min_size=1, max_size=2) as pool:
            for _ in range(3):
                users.add(pool.status().user)
                pool.rotate()
                until(lambda: database.roles() == [pool.status().user])
        assert len(users) == 3
        until(lambda: database.roles() == [])
    assert vault_server.leases() == []
    token = (home / "sink").read_text()
    assert vault_server.api("GET", "auth/token/lookup-self", token=token)[0] == 200


def test_a_renewal_out_of_an_agents_cache_is_not_believed(agent, vault_server):
    """The agent answers the second renewal by itself, with the first one's words; Vault says what is true."""
    home, _ = agent
    vault = Vault(f"unix://{home}/s", auth=AgentToken())
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    seen = []
    exchange = vault._keeper._transport.exchange
    vault._keeper._transport.exchange = lambda *words, **more: seen.append(exchange(*words, **more)) or seen[-1]
    began = now()
    lease = role.read(began).lease
    role.renew(lease, now())
    assert not seen[-1].cached
    time.sleep(3.1)  # whole seconds, and what the clocks may differ by
    with contextlib.suppress(VaultUnavailable):
        renewed = role.renew(lease, now())
        # Unless the agent renews by itself, the end is where the first renewal put it.
        assert renewed.expires_at <= now() + 3600
    assert any(answer.cached for answer in seen[-3:])
    assert seen[-1].data["ttl"] > 3500
    role.revoke(lease)
    assert vault_server.leases() == []
    vault.close()


def test_the_sink_of_an_agent_is_a_token_file(agent, vault_server):
    """What the agent logged in for may be used without its listener."""
    home, _ = agent
    vault = Vault(vault_server.address, auth=Token(token_file=home / "sink"))
    assert vault.call("GET", "auth/token/lookup-self").data["path"].startswith("auth/approle")
    vault.close()
