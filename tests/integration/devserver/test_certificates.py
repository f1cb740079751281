"""
Logins by a client's certificate, over TLS.
"""

from __future__ import annotations

import pytest
import requests

from tests.identities import Authority
from vault_pool.devserver import DevServer


@pytest.fixture
def server():
    with DevServer(tls=True) as server:
        assert server.request("POST", "sys/auth/cert", {"type": "cert"}, server.root_token)[0] == 204
        yield server


def post(server, path, shown=None, token=None, **body):
    headers = {"X-Vault-Token": token} if token else {}
    url = f"{server.address.replace('127.0.0.1', 'localhost')}/v1/{path}"
    files = None if shown is None else tuple(map(str, shown))
    return requests.post(url, json=body, headers=headers, cert=files, verify=server.ca_file, timeout=10)


def test_a_certificate_of_a_known_authority_logs_in(server, tmp_path):
    """Names may be restricted; a renewal needs the same certificate."""
    authority = Authority(tmp_path)
    role = {"certificate": authority.pem, "allowed_common_names": "app*", "token_policies": "p", "token_ttl": "1h"}
    assert post(server, "auth/cert/certs/web", token=server.root_token, **role).status_code == 204
    mine, same, other = authority.issue("app-1"), authority.issue("app-2"), authority.issue("other")
    auth = post(server, "auth/cert/login", mine).json()["auth"]
    assert (auth["metadata"]["cert_name"], auth["metadata"]["common_name"]) == ("web", "app-1")
    assert auth["policies"] == ["default", "p"]
    refused = post(server, "auth/cert/login", other)
    assert refused.status_code == 400
    assert refused.json()["errors"] == ["no chain matching all constraints could be found for this login certificate"]
    token = auth["client_token"]
    assert post(server, "auth/token/renew-self", mine, token=token).json()["auth"]["lease_duration"] == 3600
    text = post(server, "auth/token/renew-self", same, token=token).json()["errors"][0]
    assert "client identity during renewal not matching client identity used during login" in text


def test_who_shows_no_certificate_or_a_foreign_one_does_not_get_in(server, tmp_path):
    """Without one the answer says so; of a foreign one TLS gets rid itself."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    authority, foreign = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    role = {"certificate": authority.pem}
    assert post(server, "auth/cert/certs/web", token=server.root_token, **role).status_code == 204
    answer = post(server, "auth/cert/login")
    assert (answer.status_code, answer.json()["errors"]) == (500, ["no client certificate found"])
    with pytest.raises(requests.ConnectionError):
        post(server, "auth/cert/login", foreign.issue("app"))
    assert post(server, "auth/cert/certs/bad", token=server.root_token, certificate=None).status_code == 400
