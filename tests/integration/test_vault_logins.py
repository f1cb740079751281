"""
Every login that needs no foreign cloud, against real servers, through a real rotation.
"""

from __future__ import annotations

import time

import pytest

from tests import identities
from vault_pool import (
    JWT,
    LDAP,
    AppRole,
    CustomLogin,
    DynamicRole,
    Kubernetes,
    Token,
    UserPass,
    Vault,
    VaultDenied,
    VaultPool,
    VaultUnavailable,
)

ALICE = {"alice": "wonder land "}


def until(condition, seconds=10.0):
    """Wait until *condition* holds; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def method(vault_server):
    """`method(kind)` enables an auth method at a path of the test's own and returns the path."""
    made = []

    def enable(kind):
        mount = f"{kind}-{vault_server.mount}"
        status, answer = vault_server.api("POST", f"sys/auth/{mount}", {"type": kind})
        assert status == 204, answer
        made.append(mount)
        return mount

    yield enable
    for mount in made:
        vault_server.api("DELETE", f"sys/auth/{mount}")


@pytest.fixture
def rotates(vault_server, database):
    """`rotates(auth)` opens a pool by *auth*, rotates it, asserts that nothing is left, and returns its first user."""
    vault_server.database_role(database)

    def run(auth, *, address=None, **settings):
        vault = Vault(address or vault_server.address, auth=auth, **settings)
        source = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
        with VaultPool(database.conninfo(), source=source, min_size=1, max_size=2) as pool:
            first = pool.status().user
            with pool.connection() as connection:
                connection.execute("select current_user")
            pool.rotate()
            until(lambda: database.roles() == [pool.status().user])
            assert pool.status().user != first
            with pool.connection() as connection:
                connection.execute("select current_user")
            held = vault._keeper._ledger.current
            token = held.secret and held.secret.reveal()
        until(lambda: database.roles() == [])
        assert vault_server.leases() == []
        if held.ours:
            assert vault_server.api("GET", "auth/token/lookup-self", token=token)[0] == 403
        return first

    return run


# --- One by one --------------------------------------------------------------------------------------------


def test_approle(rotates, vault_server, tmp_path):
    """With a secret_id of a file."""
    login = vault_server.approle()
    (tmp_path / "s").write_text(login.secret_id + "\n")
    rotates(AppRole(login.role_id, secret_id_file=tmp_path / "s", mount_point=login.mount_point))


def test_approle_without_secret_id(rotates, vault_server):
    """A role that binds by address alone (bind_secret_id=false) needs none; other roles say what is missing."""
    login = vault_server.approle()
    role = f"auth/{login.mount_point}/role/by-address"
    settings = {
        "bind_secret_id": False,
        "secret_id_bound_cidrs": ["127.0.0.0/8"],
        "token_policies": vault_server.policy(),
    }
    vault_server.ask("POST", role, settings)
    role_id = vault_server.ask("GET", f"{role}/role-id")["data"]["role_id"]
    rotates(AppRole(role_id, mount_point=login.mount_point))
    with pytest.raises(VaultDenied, match="missing secret_id"):
        rotates(AppRole(login.role_id, mount_point=login.mount_point))


def test_token_of_a_file(rotates, vault_server, tmp_path):
    """The sink of an agent: when its token has died, the next one is read from the file."""
    (tmp_path / "token").write_text(vault_server.token() + "\n")
    auth = Token(token_file=tmp_path / "token")
    rotates(auth)
    vault = Vault(vault_server.address, auth=auth)
    first = vault.call("GET", "auth/token/lookup-self").data["accessor"]
    vault_server.ask("POST", "auth/token/revoke-accessor", {"accessor": first})
    (tmp_path / "token").write_text(vault_server.token())
    assert vault.call("GET", "auth/token/lookup-self").data["accessor"] != first
    vault.close()


def test_userpass(rotates, vault_server, method, tmp_path):
    """The password is taken as it stands in the file, but for the end of the line."""
    mount = method("userpass")
    body = {"password": ALICE["alice"], "token_policies": [vault_server.policy()]}
    vault_server.ask("POST", f"auth/{mount}/users/alice", body)
    (tmp_path / "p").write_text(ALICE["alice"] + "\n")
    assert "userpass" in rotates(UserPass("alice", password_file=tmp_path / "p", mount_point=mount))
    with pytest.raises(VaultDenied, match="login was refused"):
        rotates(UserPass("alice", "wrong", mount_point=mount))


def test_ldap(rotates, vault_server, method):
    """Vault binds as the user; a directory that is away is no refusal, and a wrong password is one."""
    mount = method("ldap")
    with identities.directory(ALICE) as (url, bound):
        settings = {"url": url, "userdn": "ou=users,dc=example", "userattr": "uid", "groupdn": ""}
        vault_server.ask("POST", f"auth/{mount}/config", settings)
        vault_server.ask("POST", f"auth/{mount}/users/alice", {"policies": vault_server.policy()})
        rotates(LDAP("alice", ALICE["alice"], mount_point=mount))
        assert set(bound) == {"alice"}
        with pytest.raises(VaultDenied, match="login was refused"):
            rotates(LDAP("alice", "wrong", mount_point=mount))
    with pytest.raises(VaultUnavailable) as caught:
        Vault(vault_server.address, auth=LDAP("alice", "x", mount_point=mount)).call("GET", "x")
    assert caught.value.retryable


def test_jwt(rotates, vault_server, method, tmp_path):
    """A token that a key of the tests signed; the file is read again at each login."""
    mount, issuer = method("jwt"), identities.Issuer()
    vault_server.ask("POST", f"auth/{mount}/config", {"jwt_validation_pubkeys": [issuer.public_key]})
    role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": "me"}
    vault_server.ask("POST", f"auth/{mount}/role/app", {**role, "token_policies": [vault_server.policy()]})
    file = tmp_path / "jwt"
    file.write_text(issuer.sign(sub="me", aud="vault"))
    auth = JWT("app", token_file=file, mount_point=mount)
    rotates(auth)
    file.write_text(identities.Issuer().sign(sub="me", aud="vault"))
    with pytest.raises(VaultDenied, match="login was refused"):
        rotates(auth)


def test_kubernetes(rotates, vault_server, method, tmp_path):
    """Vault has Kubernetes review the token of the service account, which is read again at each login."""
    mount, issuer = method("kubernetes"), identities.Issuer()
    with identities.token_review() as (address, reviewed):
        reviewer = issuer.service_account("reviewer")
        config = {"kubernetes_host": address, "token_reviewer_jwt": reviewer, "disable_local_ca_jwt": True}
        config["kubernetes_ca_cert"] = identities.Authority(tmp_path).pem
        vault_server.ask("POST", f"auth/{mount}/config", config)
        bound = {"bound_service_account_names": "app", "bound_service_account_namespaces": "default"}
        vault_server.ask("POST", f"auth/{mount}/role/app", {**bound, "token_policies": [vault_server.policy()]})
        file = tmp_path / "token"
        auth = Kubernetes("app", token_file=file, mount_point=mount)
        for _ in range(2):
            file.write_text(issuer.service_account("app"))
            rotates(auth)
            assert reviewed[-1] == file.read_text()
        file.write_text(issuer.service_account("other"))
        with pytest.raises(VaultDenied, match="login was refused"):
            rotates(auth)
    with pytest.raises(VaultDenied) as caught:  # Vault does not tell that it could not ask
        Vault(vault_server.address, auth=auth).call("GET", "x")
    assert caught.value.retry_after <= 60


def test_a_login_of_the_applications_own(rotates, vault_server):
    """A callable logs in as it likes; a token that it brings along is not revoked."""
    login = vault_server.approle()
    body = {"role_id": login.role_id, "secret_id": login.secret_id}
    path = f"auth/{login.mount_point}/login"
    rotates(CustomLogin(lambda client: client.login(path, body)))
    rotates(CustomLogin(lambda client: vault_server.ask("POST", path, body, token="")))
    rotates(CustomLogin(lambda client: vault_server.ask("POST", path, body, token="")["auth"]))
    token = vault_server.token()
    rotates(CustomLogin(lambda client: token))
    assert vault_server.api("GET", "auth/token/lookup-self", token=token)[0] == 200


# --- A wrapped secret_id -----------------------------------------------------------------------------------


def wrap(vault_server, login, path="secret-id", method="POST"):
    """Return a wrapping token that holds the answer to *path* of the role."""
    path = f"auth/{login.mount_point}/role/{login.name}/{path}"
    status, answer = vault_server.api(method, path, None if method == "GET" else {}, headers={"X-Vault-Wrap-TTL": "60"})
    assert status == 200
    return answer["wrap_info"]["token"]


def test_a_wrapped_secret_id(rotates, vault_server, tmp_path):
    """The wrapping token is spent once; the secret_id it held serves all logins, until a new token comes."""
    login = vault_server.approle()
    file = tmp_path / "wrapped"
    file.write_text(wrap(vault_server, login))
    auth = AppRole(login.role_id, wrapping_token_file=file, role_name="app", mount_point=login.mount_point)
    for _ in range(2):
        rotates(auth)
    file.write_text(wrap(vault_server, login))
    rotates(auth)


def test_a_wrapping_token_that_was_opened_before_is_an_alarm(vault_server, caplog):
    """Somebody else may have the secret_id: that is logged as an error, and nothing is asked twice."""
    login = vault_server.approle()
    token = wrap(vault_server, login)
    vault_server.ask("POST", "sys/wrapping/unwrap", token=token)
    vault = Vault(
        vault_server.address, auth=AppRole(login.role_id, wrapping_token=token, mount_point=login.mount_point)
    )
    for _ in range(2):
        with pytest.raises(VaultDenied, match="may have been stolen"):
            vault.call("GET", "x")
    assert [record.levelname for record in caplog.records if "stolen" in record.getMessage()] == ["ERROR"]
    vault.close()


@pytest.mark.parametrize(
    ("path", "method", "role_name"), [("role-id", "GET", None), ("secret-id", "POST", "another")], ids=["other", "role"]
)
def test_a_wrapping_token_of_another_origin_is_not_opened(vault_server, path, method, role_name):
    """What was not made by the role's secret-id was put there by somebody: it stays closed, and is reported."""
    login = vault_server.approle()
    token = wrap(vault_server, login, path, method)
    auth = AppRole(login.role_id, wrapping_token=token, role_name=role_name, mount_point=login.mount_point)
    vault = Vault(vault_server.address, auth=auth)
    with pytest.raises(VaultDenied, match=r"was made by 'auth/.*it was not unwrapped"):
        vault.call("GET", "x")
    assert vault_server.ask("POST", "sys/wrapping/unwrap", token=token)["data"]
    vault.close()


# --- No lockout --------------------------------------------------------------------------------------------


def test_a_wrong_password_locks_nobody_out(vault_server, method):
    """However often a pool asks with a wrong password, the right one still works."""
    mount = method("userpass")
    vault_server.ask("POST", f"auth/{mount}/users/alice", {"password": "right"})
    vault = Vault(vault_server.address, auth=UserPass("alice", "wrong", mount_point=mount))
    for _ in range(20):
        with pytest.raises(VaultDenied):
            vault.call("GET", "auth/token/lookup-self")
        vault._keeper._login_error = None  # as if its pause had passed
    assert vault_server.api("POST", f"auth/{mount}/login/alice", {"password": "right"}, token="")[0] == 200
    vault.close()


# --- Second factors and namespaces -------------------------------------------------------------------------


def test_a_login_with_a_second_factor_is_told_as_such(vault_server, method):
    """Vault answers 200 without a token; the error says what stands in the way."""
    mount = method("userpass")
    vault_server.ask("POST", f"auth/{mount}/users/alice", {"password": "p"})
    made = vault_server.ask("POST", "identity/mfa/method/totp", {"issuer": "x"})
    accessor = vault_server.ask("GET", "sys/auth")["data"][f"{mount}/"]["accessor"]
    enforcement = {"mfa_method_ids": [made["data"]["method_id"]], "auth_method_accessors": [accessor]}
    vault_server.ask("POST", "identity/mfa/login-enforcement/tests", enforcement)
    vault = Vault(vault_server.address, auth=UserPass("alice", "p", mount_point=mount))
    with pytest.raises(VaultDenied, match="second factor"):
        vault.call("GET", "x")
    vault.close()
    vault_server.ask("DELETE", "identity/mfa/login-enforcement/tests")
    vault_server.ask("DELETE", f"identity/mfa/method/totp/{made['data']['method_id']}")


def test_everything_may_lie_in_a_namespace(vault_server, database):
    """Login, wrapping, leases and the token's own affairs of a pool in a namespace."""
    name = f"ns-{vault_server.mount}"
    status, _ = vault_server.api("POST", f"sys/namespaces/{name}", {})
    if status >= 400:
        pytest.skip(f"{vault_server.kind} has no namespaces")

    def ask(verb, path, body=None, **headers):
        status, answer = vault_server.api(verb, path, body, headers={"X-Vault-Namespace": name, **headers})
        assert status < 300, answer
        return answer

    ask("POST", "sys/mounts/db", {"type": "database"})
    login = {"username": database.admin.user, "password": database.admin.password}
    connection = {"plugin_name": "postgresql-database-plugin", "allowed_roles": "*", **login}
    ask("POST", "db/config/pg", {**connection, "connection_url": database.connection_url()})
    create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE"
    ask("POST", "db/roles/app", {"db_name": "pg", "creation_statements": [f'{create} "{database.group}"']})
    rules = 'path "db/creds/app" { capabilities = ["read"] } path "sys/leases/*" { capabilities = ["update"] }'
    ask("PUT", "sys/policies/acl/app", {"policy": rules})
    ask("POST", "sys/auth/approle", {"type": "approle"})
    ask("POST", "auth/approle/role/app", {"token_policies": ["app"], "token_ttl": "60s"})
    role_id = ask("GET", "auth/approle/role/app/role-id")["data"]["role_id"]
    wrapped = ask("POST", "auth/approle/role/app/secret-id", {}, **{"X-Vault-Wrap-TTL": "60"})["wrap_info"]["token"]

    auth = AppRole(role_id, wrapping_token=wrapped, role_name="app")
    vault = Vault(vault_server.address, auth=auth, namespace=name)
    source = DynamicRole("app", vault=vault, mount_point="db")
    with VaultPool(database.conninfo(), source=source, min_size=1, max_size=2) as pool:
        first = pool.status().user
        vault._keeper._renew()
        pool.rotate()
        until(lambda: database.roles() == [pool.status().user])
        assert pool.status().user != first
    until(lambda: database.roles() == [])
    ask("DELETE", "sys/mounts/db")
    vault_server.ask("DELETE", f"sys/namespaces/{name}")
