"""
The development server over HTTP and HTTPS, with a real client library.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import hvac
import pytest
import requests

from vault_pool.devserver import DevServer


@pytest.fixture
def server(database):
    with DevServer() as server:
        server.enable_database(database.conninfo(), user=database.admin.user, password=database.admin.password)
        server.add_role("app", in_role=database.group, default_ttl="10m", max_ttl="30m")
        yield server


def health(server, context):
    with contextlib.closing(
        http.client.HTTPSConnection("localhost", server.port, timeout=10, context=context)
    ) as connection:
        connection.request("GET", "/v1/sys/health")
        return json.load(connection.getresponse())


def test_hvac_lives_a_whole_life(server, database):
    """Login, read, renew, look up, revoke and log out, as an application does."""
    rules = (
        'path "database/creds/app" { capabilities = ["read"] }\npath "sys/leases/revoke" { capabilities = ["update"] }'
    )
    server.add_policy("app", rules)
    role = server.add_approle("app", ["app"], token_ttl="1h")
    client = hvac.Client(server.address)
    client.auth.approle.login(role.role_id, role.secret_id)
    answer = client.secrets.database.generate_credentials("app")
    assert database.roles() == [answer["data"]["username"]]
    assert client.sys.renew_lease(answer["lease_id"], increment=60)["lease_duration"] == 60
    assert client.sys.read_lease(answer["lease_id"])["data"]["ttl"] <= 60
    assert client.auth.token.renew_self()["auth"]["lease_duration"] == 3600
    client.sys.revoke_lease(answer["lease_id"])
    assert database.roles() == []
    with pytest.raises(hvac.exceptions.InvalidRequest, match="lease not found"):
        client.sys.renew_lease(answer["lease_id"])
    with pytest.raises(hvac.exceptions.Forbidden):
        client.sys.list_mounted_secrets_engines()
    client.auth.token.revoke_self()
    assert not client.is_authenticated()
    client.adapter.close()


def test_a_connection_is_kept(server):
    """Several requests go over one connection, also after an error and after an answer without a body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    headers = {"X-Vault-Token": server.root_token}
    sockets = set()
    for method, path in (("GET", "nowhere"), ("DELETE", "sys/mounts/x"), ("HEAD", "sys/health"), ("GET", "sys/health")):
        connection.request(method, f"/v1/{path}", headers=headers)
        sockets.add(connection.sock)
        connection.getresponse().read()
    connection.close()
    assert len(sockets) == 1


def test_a_body_over_32_mib_is_too_large(server):
    """The answer is a 413 that arrives, although the client is still writing."""
    body = b'{"lease_id":"' + b"x" * (33 << 20) + b'"}'
    answer = requests.post(f"{server.address}/v1/sys/leases/renew", data=body, timeout=30)
    assert (answer.status_code, answer.json()) == (413, {"errors": ["http: request body too large"]})


def test_tls_with_a_certificate_of_its_own(no_leaks):
    """The authority's file verifies the server, belongs to its owner alone, and is gone afterwards."""
    with DevServer(tls=True) as server:
        assert server.address.startswith("https://")
        assert stat.S_IMODE(Path(server.ca_file).stat().st_mode) == 0o600
        assert health(server, ssl.create_default_context(cafile=server.ca_file))["initialized"]
        with pytest.raises(ssl.SSLCertVerificationError):
            health(server, ssl.create_default_context())
        path = Path(server.ca_file)
    assert not path.exists()


def test_closing_releases_who_hangs(no_leaks, server):
    """A held request ends with the server."""
    with server.inject("hang", path="sys/health") as hang:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/v1/sys/health")
        assert hang.wait_met()
        server.close()
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(postgres, number):
    """It prints where it is, makes roles that can be read, and leaves none when it is interrupted."""
    code = "from vault_pool.cli.devserver import devserver; devserver()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--port", "0", "--postgres", postgres.conninfo()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        while "curl" not in (lines or [""])[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1] or process.poll() is None, lines
        said = "".join(lines)
        address, token = re.search(r"VAULT_ADDR=(\S+)", said)[1], re.search(r"VAULT_TOKEN=(\S+)", said)[1]
        answer = requests.get(f"{address}/v1/database/creds/app", headers={"X-Vault-Token": token}, timeout=20).json()
        process.send_signal(number)
        assert process.wait(20) == 0
        rest = process.stdout.read()
        assert "Traceback" not in rest
        with postgres.connect() as connection:
            query = "SELECT 1 FROM pg_roles WHERE rolname = %s"
            assert connection.execute(query, [answer["data"]["username"]]).fetchone() is None
        assert "NOT FOR PRODUCTION" in said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_token_that_was_given_is_not_repeated(postgres):
    """A root token on the command line is not printed."""
    from click.testing import CliRunner

    from vault_pool.cli.devserver import devserver

    answer = CliRunner().invoke(
        devserver, ["--host", "0.0.0.0", "--root-token", "mine", "--postgres", postgres.conninfo()]
    )
    assert answer.exit_code == 1
    assert "no loopback address" in answer.output
    assert "mine" not in answer.output


@pytest.mark.parametrize("kind", ["cut", "drop"])
def test_a_lost_answer_is_a_broken_connection(server, kind):
    """A client reads less than was announced, or nothing; the next request is answered."""
    with server.inject(kind, path="sys/health"), pytest.raises(requests.RequestException):
        requests.get(f"{server.address}/v1/sys/health", timeout=10)
    assert requests.get(f"{server.address}/v1/sys/health", timeout=10).json()["initialized"]


def test_a_standby_redirects_clients(server):
    """The redirect goes to the active node, carries no content type, and a client follows it."""
    with server.inject("standby", address=server.address, times=1):
        answer = requests.get(f"{server.address}/v1/sys/seal-status", timeout=10)
        assert answer.json()["initialized"]
    with server.inject("standby", address=server.address, times=1):
        url, token = f"{server.address}/v1/sys/mounts", {"X-Vault-Token": server.root_token}
        answer = requests.get(url, headers=token, allow_redirects=False, timeout=10)
        assert (answer.status_code, answer.headers["Location"]) == (307, url)
        assert "Content-Type" not in answer.headers


def test_faults_are_injected_from_another_process():
    """The command's option says what is wrong with a fault; a good one is in force from the start."""
    code = "from vault_pool.cli.devserver import devserver; devserver()"
    run = [sys.executable, "-c", code, "--port", "0", "--fault", "slow,seconds=x"]
    refused = subprocess.run(run, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 2
    assert "seconds is 'x', not a number of seconds" in refused.stderr.replace("\n", " ")


def test_a_fixture_injects_and_ends_a_fault(vault_server):
    """Over HTTP, with a count of the requests that met it."""
    with vault_server.fault("behind", path="sys/leases", times=1) as met:
        assert vault_server.api("PUT", "sys/leases/lookup", {"lease_id": "x"})[0] == 412
        assert vault_server.api("PUT", "sys/leases/lookup", {"lease_id": "x"})[0] == 400
        assert met() == 1
    assert vault_server.api("GET", "/devserver/faults")[1] == {"faults": []}
