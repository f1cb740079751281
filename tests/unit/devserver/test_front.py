"""
HTTP: paths, methods, bodies, headers and faults, without sockets.
"""

from __future__ import annotations

import pytest

from vault_pool.devserver import DevServer
from vault_pool.devserver.exchange import HttpRequest
from vault_pool.devserver.front import Front

UNSUPPORTED_PATH = (404, "1 error occurred:\n\t* unsupported path\n\n")
UNSUPPORTED_OPERATION = (405, "1 error occurred:\n\t* unsupported operation\n\n")


def send(api, method, target, body=b"", **headers):
    front = Front(api.server.core)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return front.handle(
        HttpRequest(method=method, target=target, body=body, headers={"x-vault-token": api.root, **named})
    )


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "/v1/v/nothing", UNSUPPORTED_PATH),
        ("POST", "/v1/v/creds/x", UNSUPPORTED_OPERATION),
        ("LIST", "/v1/v/creds", UNSUPPORTED_PATH),
        ("GET", "/v1/v/creds/x/", UNSUPPORTED_PATH),
        ("GET", "/v1/v", UNSUPPORTED_PATH),
        ("POST", "/v1/v/creds/", (400, "cannot write to a path ending in '/'")),
        ("GET", "/v1/v/%2e%2e/sys/health", (400, "relative paths not supported")),
        ("PATCH", "/v1/v/creds/x", (400, "mime: no media type")),
        ("FOO", "/v1/v/creds/x", (405,)),
        ("GET", "/v2/v", (404,)),
        ("GET", "/v1", (404,)),
        ("GET", "/v1/", (404, 'no handler for route "". route entry not found.')),
    ],
)
def test_strange_requests(api, method, path, answer):
    """Each strange path and method has the answer that a real server gives."""
    response = send(api, method, path)
    assert (response.status, *response.body["errors"]) == answer


@pytest.mark.parametrize("path", ["/v1//v/creds/x", "/v1/v//creds/x", "/v1/sys/../v/creds/x"])
def test_unclean_paths_are_redirected(api, vault_api, path):
    """307 in OpenBao, 301 in Vault."""
    for one, status in ((api, 307), (vault_api, 301)):
        response = send(one, "GET", path)
        assert (response.status, response.headers["Location"]) == (status, "/v1/v/creds/x")


def test_every_answer_has_the_headers_of_vault(api):
    """No answer may be stored, and all are JSON."""
    for response in (
        send(api, "GET", "/v1/v/creds/x"),
        send(api, "GET", "/v1/nothing"),
        send(api, "DELETE", "/v1/sys/mounts/x"),
    ):
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"


def test_a_success_has_all_nine_keys(api):
    """The envelope is complete, with null for what is not there."""
    body = api.ok("GET", "v/creds/x?foo=bar")
    assert set(body) == {
        "request_id", "lease_id", "renewable", "lease_duration", "data", "wrap_info", "warnings", "auth"
    }  # fmt: skip
    assert body["warnings"] == ["Endpoint ignored these unrecognized parameters: [foo]"]


@pytest.mark.parametrize("body", [b"{not json", b"[1]", b'"x"', b'{"lease_id":"x"} trailing'])
def test_a_body_that_is_no_object_is_refused(api, body):
    """Broken JSON, and JSON that is no object, is a 400."""
    response = send(api, "PUT", "/v1/sys/leases/renew", body)
    assert (response.status, response.body) == (400, {"errors": ["error parsing JSON"]})


def test_vault_reads_one_value_and_no_further(vault_api):
    """Garbage behind the JSON goes unnoticed in Vault."""
    response = send(vault_api, "PUT", "/v1/sys/leases/renew", b'{"lease_id":"x"} trailing')
    assert response.body == {"errors": ["lease not found"]}


def test_forms_are_read_where_they_are_declared(api):
    """JSON is read whatever the content type says, forms only under their own."""
    lease_id = api.lease()
    form = f"lease_id={lease_id}".encode()
    kind = "application/x-www-form-urlencoded"
    assert send(api, "PUT", "/v1/sys/leases/renew", form, content_type=kind).status == 200
    assert send(api, "PUT", "/v1/sys/leases/renew", form).status == 400
    assert (
        send(
            api, "PUT", "/v1/sys/leases/renew", f'{{"lease_id":"{lease_id}"}}'.encode(), content_type="text/plain"
        ).status
        == 200
    )


def test_a_bearer_token_counts_if_there_is_no_other(api):
    """X-Vault-Token wins over Authorization."""
    front = Front(api.server.core)
    path = "/v1/auth/token/lookup-self"
    for headers, status in (
        ({"authorization": f"Bearer {api.root}"}, 200),
        ({"authorization": "Bearer nonsense", "x-vault-token": api.root}, 200),
        ({"authorization": "Basic abc"}, 403),
        ({}, 403),
    ):
        assert front.handle(HttpRequest(method="GET", target=path, headers=headers)).status == status


def test_a_sealed_server_tells_its_health_and_nothing_else(api):
    """503 for everything, also without a token; leases and tokens survive."""
    lease_id = api.lease()
    api.ok("PUT", "sys/seal")
    assert api.refusal("GET", "v/creds/x", token=None) == (503, "Vault is sealed")
    assert api.ask("GET", "sys/health")[0] == 503
    assert api.ask("GET", "sys/health?sealedcode=299")[0] == 299
    assert api.ok("GET", "sys/seal-status")["sealed"]
    assert api.refusal("PUT", "sys/unseal", {"key": "AAAA"}) == (
        400,
        "invalid key: key is shorter than minimum 16 bytes",
    )
    assert not api.ok("PUT", "sys/unseal", {"key": api.server.core.unseal_key})["sealed"]
    api.ok("PUT", "sys/leases/renew", {"lease_id": lease_id})


def test_namespaces_are_unknown_to_openbao_and_ignored_by_vault(api, vault_api):
    """The header is echoed in any case."""
    for one, status in ((api, 404), (vault_api, 200)):
        response = send(one, "GET", "/v1/v/creds/x", x_vault_namespace="team")
        assert (response.status, response.headers["X-Vault-Namespace"]) == (status, "team")
    assert send(api, "GET", "/v1/v/creds/x", x_vault_namespace="root").status == 200


@pytest.mark.parametrize(
    ("increment", "text"),
    [
        (-1, "cannot provide negative value '-1'"),
        ("abc", 'time: invalid duration "abc"'),
        (True, "could not parse duration from input"),
    ],
)
def test_a_field_of_the_wrong_form_is_named(api, vault_api, increment, text):
    """Vault repeats the value, OpenBao does not."""
    body = {"lease_id": "x", "increment": increment}
    shown = str(increment).lower()
    start = "Field validation failed: error converting input"
    assert api.refusal("PUT", "sys/leases/renew", body) == (400, f'{start} for field "increment": {text}')
    assert vault_api.refusal("PUT", "sys/leases/renew", body) == (400, f'{start} {shown} for field "increment": {text}')


def test_only_loopback_is_listened_at():
    """Another address needs an explicit permission."""
    with pytest.raises(ValueError, match="is no loopback address"):
        DevServer(host="0.0.0.0")
    with pytest.raises(ValueError, match="is no loopback address"):
        DevServer(host="example.com")
    DevServer(host="0.0.0.0", allow_remote=True)
    DevServer(host="::1")


def test_no_secret_is_in_a_repr(api):
    """What is printed by accident gives nothing away."""
    token = api.token("default")
    core = api.server.core
    entry = core.tokens.lookup(token)
    lease = core.leases.get(entry.lease_id)
    role = api.server.add_approle("app")
    shown = f"{api.server!r} {entry!r} {lease!r} {lease.auth!r} {role!r} {core!r}"
    for secret in (token, role.secret_id, api.root, core.unseal_key):
        assert secret not in shown
