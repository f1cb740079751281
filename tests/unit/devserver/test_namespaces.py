"""
Namespaces, key/value secrets, inline logins: the first parts of what only some requests need.
"""

from __future__ import annotations

import base64
import json

import pytest

from vault_pool.devserver.errors import ConnectionDropped


def _parameter(name: str, value: str) -> str:
    return base64.urlsafe_b64encode(json.dumps({"key": name, "value": value}).encode()).decode().rstrip("=")


def _inline(login, secret_id: str | None = None) -> dict[str, str]:
    return {
        "X-Vault-Inline-Auth-Path": "auth/approle/login",
        "X-Vault-Inline-Auth-Parameter-role_id": _parameter("role_id", login.role_id),
        "X-Vault-Inline-Auth-Parameter-secret_id": _parameter("secret_id", secret_id or login.secret_id),
    }


def test_a_namespace_has_mounts_of_its_own(api):
    """The header and the beginning of the path name the same place, and the root does not see into it."""
    api.ok("POST", "sys/namespaces/team", {})
    api.ok("POST", "sys/mounts/kv", {"type": "kv"}, X_Vault_Namespace="team")
    api.ok("POST", "kv/a", {"x": "y"}, X_Vault_Namespace="team")
    assert api.ok("GET", "team/kv/a")["data"] == {"x": "y"}
    assert api.refusal("GET", "kv/a") == (404, 'no handler for route "kv/a". route entry not found.')
    assert "kv/" in api.ok("GET", "sys/mounts", X_Vault_Namespace="team")["data"]
    assert "kv/" not in api.ok("GET", "sys/mounts")["data"]


def test_a_token_of_a_namespace_is_good_there_only(api):
    """It ends with the namespace's id, and the root refuses it."""
    made = api.ok("POST", "sys/namespaces/team", {})["data"]
    token = api.ok("POST", "auth/token/create", {"policies": ["default"]}, X_Vault_Namespace="team")["auth"]
    assert token["client_token"].endswith(f".{made['id']}")
    assert token["accessor"].endswith(f".{made['id']}")
    assert api.ok("GET", "auth/token/lookup-self", token=token["client_token"], X_Vault_Namespace="team")
    assert api.refusal("GET", "auth/token/lookup-self", token=token["client_token"])[0] == 403


def test_a_lease_of_a_namespace_is_renewed_and_revoked(api):
    """Its id ends with the namespace's, and its mount is found."""
    from vault_pool.devserver.mounts import Mount

    made = api.ok("POST", "sys/namespaces/team", {})["data"]
    api.server.core.mounts.add(Mount(path="team/v/", namespace="team/", engine=api.vending))
    lease_id = api.ok("GET", "team/v/creds/x")["lease_id"]
    assert lease_id.startswith("v/creds/x/")
    assert lease_id.endswith(f".{made['id']}")
    api.ok("POST", "sys/leases/renew", {"lease_id": lease_id}, X_Vault_Namespace="team")
    api.ok("POST", "sys/leases/revoke", {"lease_id": lease_id}, X_Vault_Namespace="team")
    assert (api.vending.renewed, api.vending.revoked) == ([0], [0])


def test_namespaces_are_listed_and_read(api):
    """A namespace that nobody made is not found; one made twice stays the same."""
    assert api.refusal("GET", "sys/mounts", X_Vault_Namespace="team") == (404, "namespace not found")
    assert api.ask("GET", "sys/namespaces/team")[0] == 404
    made = api.ok("POST", "sys/namespaces/team", {})["data"]
    again = api.ok("POST", "sys/namespaces/team", {"custom_metadata": {"a": "b"}})["data"]
    assert again == {**made, "custom_metadata": {"a": "b"}}
    assert api.ok("GET", "sys/namespaces/team")["data"] == again
    assert api.ok("LIST", "sys/namespaces")["data"]["keys"] == ["team/"]
    assert api.refusal("GET", "sys/health", X_Vault_Namespace="team") == (400, "operation unavailable in namespaces")


def test_vault_has_no_namespaces(vault_api):
    """The community's Vault ignores the header."""
    assert vault_api.refusal("POST", "sys/namespaces/team", {}) == (404, "enterprise-only feature")
    assert vault_api.ok("GET", "auth/token/lookup-self", X_Vault_Namespace="team")


def test_a_key_value_mount_keeps_the_last_write(api):
    """Version 1 has no lease, but a duration: its own field, or the mount's."""
    api.ok("POST", "sys/mounts/kv", {"type": "kv"})
    api.ok("POST", "kv/a/b", {"x": "y"})
    api.ok("POST", "kv/a/c", {"ttl": "30s"})
    assert api.ok("GET", "kv/a/b")["lease_duration"] == 2764800
    assert api.ok("GET", "kv/a/c")["lease_duration"] == 30
    assert api.ok("LIST", "kv/")["data"]["keys"] == ["a/"]
    assert api.ok("LIST", "kv/a")["data"]["keys"] == ["b", "c"]
    api.ok("DELETE", "kv/a/b")
    assert api.refusal("GET", "kv/a/b") == (404,)
    assert api.refusal("POST", "kv/a/b", {}) == (400, "missing data fields")


def test_a_versioned_mount_keeps_every_write(api):
    """Version 2 is mounted at secret/; a path without data/ is a 404 that looks like a success."""
    for text in ("one", "two"):
        api.ok("POST", "secret/data/a", {"data": {"x": text}})
    assert api.ok("GET", "secret/data/a")["data"]["data"] == {"x": "two"}
    assert api.ok("GET", "secret/data/a?version=1")["data"]["data"] == {"x": "one"}
    assert api.ok("LIST", "secret/metadata/")["data"]["keys"] == ["a"]
    assert api.refusal("GET", "secret/data/a?version=3") == (404,)
    assert api.refusal("POST", "secret/data/a", {"x": "y"}) == (400, "no data provided")
    status, body = api.ask("GET", "secret/a")
    assert status == 404
    assert "bao kv get" in body["warnings"][0]


def test_a_request_may_log_in_by_itself(api):
    """An inline login authorises one request, which cannot have a lease, and its token dies with it."""
    api.server.add_policy("app", 'path "v/creds/*" { capabilities = ["read"] }')
    login = api.server.add_approle("app", ["app"])
    accessors = api.ok("LIST", "auth/token/accessors")["data"]["keys"]
    shown = api.ok("GET", "auth/token/lookup-self", token=None, **_inline(login))
    assert shown["data"]["policies"] == ["app", "default"]
    refused = api.refusal("GET", "v/creds/x", token=None, **_inline(login))
    assert refused == (400, "requests with inline authentication cannot generate leases")
    api.server.step()
    assert api.vending.issued == api.vending.revoked == [0]
    assert api.ok("LIST", "auth/token/accessors")["data"]["keys"] == accessors


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X-Vault-Inline-Auth-Parameter-a": "%"}, "failed raw url-safe base64 decoding header value"),
        ({"X-Vault-Inline-Auth-Parameter-a": "W10"}, "failed json decoding header value"),
        ({"X-Vault-Inline-Auth-Parameter-a": "e30"}, "decoded header lacked `key` field"),
    ],
)
def test_a_bad_inline_login_is_explained(api, headers, said):
    """What cannot be decoded is a 500."""
    status, text = api.refusal(
        "GET", "auth/token/lookup-self", token=None, **headers, **{"X-Vault-Inline-Auth-Path": "auth/approle/login"}
    )
    assert status == 500
    assert said in text


def test_a_failed_inline_login_is_refused(api):
    """The login's own refusal is the answer."""
    login = api.server.add_approle("app", ["default"])
    refused = api.refusal("GET", "auth/token/lookup-self", token=None, **_inline(login, "wrong"))
    assert refused == (400, "invalid role or secret ID")


def test_vault_drops_the_connection_on_a_lease_id_that_is_no_text(vault_api, api):
    """Its handler panics; OpenBao's does not."""
    with pytest.raises(ConnectionDropped):
        vault_api.ask("POST", "sys/leases/renew", {"lease_id": 5})
    assert api.refusal("POST", "sys/leases/renew", {"lease_id": 5}) == (400, "invalid lease ID")


def test_static_roles_share_their_names_with_dynamic_ones(api):
    """A name is either of the one kind or of the other."""
    api.ok("POST", "sys/mounts/database", {"type": "database"})
    api.ok("POST", "database/roles/app", {"db_name": "pg"})
    body = {"db_name": "pg", "username": "u", "rotation_period": "1h"}
    assert api.refusal("POST", "database/static-roles/app", body) == (400, "Role and Static Role names must be unique")
    assert api.refusal("POST", "database/static-roles/other", body)[0] == 500
    assert api.refusal("LIST", "database/static-roles") == (404,)
