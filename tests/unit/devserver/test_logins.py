"""
The auth methods besides AppRole: userpass, ldap, jwt, kubernetes; second factors and lockout.
"""

from __future__ import annotations

import time

import pytest

from tests import identities
from tests.unit.devserver.conftest import running
from vault_pool.devserver.ldap_directory import NetworkDirectory

LOCKED = (403, "permission denied")
UNDATED = "no issued at (iat), not before (nbf), or expiration time (exp) claims in token"


@pytest.fixture
def api():
    """A server whose clock begins now, when tokens are signed."""
    with running(start=time.time()) as api:
        yield api


@pytest.fixture
def method(api):
    """`method(kind)` enables an auth method at its own name."""

    def enable(kind, at=""):
        api.ok("POST", f"sys/auth/{at or kind}", {"type": kind})

    return enable


@pytest.fixture(scope="module")
def issuer():
    return identities.Issuer()


def login(api, path, **body):
    return api.ok("POST", f"auth/{path}", body, token=None)["auth"]


def refusal(api, path, **body):
    return api.refusal("POST", f"auth/{path}", body, token=None)


class TestUserPass:
    """People with passwords."""

    @pytest.fixture(autouse=True)
    def user(self, api, method):
        method("userpass")
        api.ok("POST", "auth/userpass/users/Bob", {"password": "p", "policies": "app", "ttl": "20s"})

    def test_a_name_counts_in_lower_case_and_shows_in_the_token(self, api):
        """The mount comes before the name; old names of fields work."""
        auth = login(api, "userpass/login/BOB", password="p")
        shown = api.ok("GET", "auth/token/lookup-self", token=auth["client_token"])["data"]
        assert (shown["display_name"], auth["lease_duration"]) == ("userpass-bob", 20)
        assert auth["policies"] == ["app", "default"]

    def test_a_password_and_policies_are_changed_alone(self, api):
        """And only for users that exist."""
        api.ok("POST", "auth/userpass/users/bob/password", {"password": "q"})
        assert refusal(api, "userpass/login/bob", password="p") == (400, "invalid username or password")
        api.ok("POST", "auth/userpass/users/bob/policies", {"token_policies": "other"})
        assert login(api, "userpass/login/bob", password="q")["policies"] == ["default", "other"]
        assert api.refusal("POST", "auth/userpass/users/x/password", {"password": "q"})[0] == 400

    def test_a_good_login_in_time_forgives_the_bad_ones(self, api):
        """Five in a row lock the name out, for a quarter of an hour."""
        for _ in range(4):
            refusal(api, "userpass/login/bob", password="x")
        login(api, "userpass/login/bob", password="p")
        for _ in range(5):
            assert refusal(api, "userpass/login/bob", password="x")[0] == 400
        assert refusal(api, "userpass/login/bob", password="p") == LOCKED
        assert api.ok("GET", "sys/locked-users")["data"]["total"] == 1
        api.server.step(15 * 60 + 1)
        login(api, "userpass/login/bob", password="p")

    def test_a_login_from_elsewhere_is_denied(self, api):
        """`token_bound_cidrs` binds the login, too."""
        api.ok("POST", "auth/userpass/users/bob", {"token_bound_cidrs": "10.0.0.0/8"})
        assert refusal(api, "userpass/login/bob", password="p") == LOCKED

    def test_a_second_factor_is_asked_for_where_it_is_enforced(self, api):
        """The login has a requirement instead of a token; lifting it helps."""
        method_id = api.ok("POST", "identity/mfa/method/totp", {"issuer": "x"})["data"]["method_id"]
        rule = {"mfa_method_ids": [method_id], "auth_method_types": ["userpass"]}
        api.ok("POST", "identity/mfa/login-enforcement/all", rule)
        auth = login(api, "userpass/login/bob", password="p")
        wanted = {"type": "totp", "id": method_id, "uses_passcode": True}
        assert (auth["client_token"], auth["token_type"]) == ("", "default")
        assert auth["mfa_requirement"]["mfa_constraints"] == {"all": {"any": [wanted]}}
        api.ok("DELETE", "identity/mfa/login-enforcement/all")
        assert login(api, "userpass/login/bob", password="p")["client_token"]
        assert api.refusal("POST", "identity/mfa/login-enforcement/x", {"mfa_method_ids": ["y"]})[0] == 400


class TestLdap:
    """People whom a directory knows."""

    def test_the_directory_in_memory_knows_people_and_their_groups(self, api, method):
        """Policies come from the config, the user and the groups, of here and of the directory."""
        method("ldap")
        assert refusal(api, "ldap/login/alice", password="p") == (400, "auth method not configured")
        api.ok("POST", "auth/ldap/config", {"token_policies": "all"})
        api.ok("POST", "auth/ldap/groups/Devs", {"policies": "dev"})
        api.ok("POST", "auth/ldap/users/alice", {"policies": "own", "groups": "ops"})
        api.ok("POST", "auth/ldap/groups/ops", {"policies": "op"})
        api.server.directory.add("Alice", "p", ["devs"])
        auth = login(api, "ldap/login/ALICE", password="p")
        assert auth["policies"] == ["all", "default", "dev", "op", "own"]
        assert auth["metadata"] == {"username": "alice"}

    def test_a_renewal_asks_the_directory_again(self, api, method):
        """A changed password ends it, and so do other policies."""
        method("ldap")
        api.ok("POST", "auth/ldap/config", {})
        api.server.directory.add("alice", "p")
        token = login(api, "ldap/login/alice", password="p")["client_token"]
        assert api.ok("POST", "auth/token/renew-self", {}, token=token)["auth"]["client_token"] == token
        api.ok("POST", "auth/ldap/users/alice", {"policies": "own"})
        text = "1 error occurred:\n\t* failed to renew entry: policies have changed, not renewing\n\n"
        assert api.refusal("POST", "auth/token/renew-self", {}, token=token) == (500, text)
        api.server.directory.remove("alice")
        assert api.refusal("POST", "auth/token/renew-self", {}, token=token)[0] == 400

    def test_bad_passwords_lock_out_but_a_missing_directory_does_not(self, api, method):
        """Vault counts what the directory refuses, and only that."""
        method("ldap")
        api.ok("POST", "auth/ldap/config", {"url": "ldap://127.0.0.1:1"})
        for _ in range(6):
            status, text = refusal(api, "ldap/login/alice", password="p")
            assert status == 400
            assert 'LDAP Result Code 200 "Network Error"' in text
        api.ok("POST", "auth/ldap/config", {"url": ""})
        for _ in range(5):
            assert refusal(api, "ldap/login/alice", password="p")[0] == 400
        assert refusal(api, "ldap/login/alice", password="p") == LOCKED

    def test_a_name_cannot_leave_its_place(self):
        """What has a meaning in a distinguished name is escaped."""
        with identities.directory({"a\\": "p"}) as (url, bound):
            place = NetworkDirectory(urls=[url], userattr="uid", userdn="dc=x")
            assert place.groups("a,dc=admin", "p") == ()
        assert bound == ["a\\"]


class TestJwt:
    """Tokens that somebody else signed."""

    @pytest.fixture(autouse=True)
    def role(self, api, method, issuer):
        method("jwt")
        api.ok("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [issuer.public_key], "default_role": "app"})
        role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "token_policies": "p"}
        api.ok("POST", "auth/jwt/role/app", {**role, "bound_claims": {"team": ["a", "b"]}})

    def test_the_default_role_serves_whoever_names_none(self, api, issuer):
        """The user's claim is the name."""
        auth = login(api, "jwt/login", jwt=issuer.sign(sub="me", aud=["x", "vault"], team="b"))
        assert auth["metadata"] == {"role": "app"}
        assert api.ok("GET", "auth/token/lookup-self", token=auth["client_token"])["data"]["display_name"] == "jwt-me"

    @pytest.mark.parametrize(
        ("claims", "text"),
        [
            ({"aud": "vault", "team": "a"}, 'claim "sub" not found in token'),
            ({"sub": 5, "aud": "vault", "team": "a"}, 'claim "sub" could not be converted to string'),
            ({"sub": "me", "aud": "vault"}, 'error validating claims: claim "team" is missing'),
            (
                {"sub": "me", "aud": "vault", "team": "c"},
                'error validating claims: claim "team" does not match any associated bound claim values',
            ),
            (
                {"sub": "me", "aud": "vault", "nbf": 4_000_000_000},
                "error validating token: invalid not before (nbf) claim: token not yet valid",
            ),
            (
                {"sub": "me", "aud": "vault", "exp": 1_000_000_000},
                "error validating token: invalid expiration time (exp) claim: token is expired",
            ),
            (
                {"sub": "me", "aud": "vault", "exp": 0, "nbf": 0, "iat": 0},
                f"error validating token: {UNDATED}",
            ),
        ],
    )
    def test_claims_that_do_not_hold_are_named(self, api, issuer, claims, text):
        """A 400 each."""
        api.clock.set(1_900_000_000)
        dated = {"iat": 1_900_000_000, "nbf": 1_900_000_000, "exp": 1_900_003_600, **claims}
        assert refusal(api, "jwt/login", jwt=issuer.sign(**dated)) == (400, text)

    def test_the_role_must_exist_when_the_token_is_renewed(self, api, issuer):
        """Otherwise the renewal is a 500."""
        token = login(api, "jwt/login", jwt=issuer.sign(sub="me", aud="vault", team="a"))["client_token"]
        api.ok("DELETE", "auth/jwt/role/app")
        text = "1 error occurred:\n\t* failed to renew entry: role app does not exist during renewal\n\n"
        assert api.refusal("POST", "auth/token/renew-self", {}, token=token) == (500, text)

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ({"jwt_validation_pubkeys": "x"}, "error parsing public key: "),
            ({}, "exactly one of 'jwt_validation_pubkeys', 'jwks_url' or 'oidc_discovery_url' must be set"),
            ({"jwks_url": "http://x"}, "this development server fetches no keys"),
        ],
    )
    def test_a_config_without_keys_is_refused(self, api, body, text):
        """It says which field is missing."""
        status, said = api.refusal("POST", "auth/jwt/config", body)
        assert status == 400
        assert said.startswith(text)


class TestKubernetes:
    """Service accounts that Kubernetes vouches for."""

    @pytest.fixture
    def reviewed(self, api, method):
        method("kubernetes")
        bound = {"bound_service_account_names": "app,web-*", "bound_service_account_namespaces": "default"}
        api.ok("POST", "auth/kubernetes/role/app", {**bound, "token_policies": "p"})
        with identities.token_review() as (address, reviewed):
            api.ok("POST", "auth/kubernetes/config", {"kubernetes_host": address, "token_reviewer_jwt": "r"})
            yield reviewed

    def test_kubernetes_is_asked_about_the_token(self, api, issuer, reviewed):
        """The account's names become metadata, and the name of the token."""
        sent = issuer.service_account("web-1")
        auth = login(api, "kubernetes/login", role="app", jwt=sent)
        assert reviewed == [sent]
        assert auth["metadata"]["service_account_name"] == "web-1"
        shown = api.ok("GET", "auth/token/lookup-self", token=auth["client_token"])["data"]
        assert shown["display_name"] == "kubernetes-default-web-1"

    def test_other_accounts_are_told_so_and_are_not_asked_about(self, api, issuer, reviewed):
        """403 with the reason."""
        other = issuer.service_account("other")
        assert refusal(api, "kubernetes/login", role="app", jwt=other) == (403, "service account name not authorized")
        elsewhere = issuer.service_account("app", "elsewhere")
        assert refusal(api, "kubernetes/login", role="app", jwt=elsewhere) == (403, "namespace not authorized")
        assert reviewed == []

    def test_who_cannot_be_reviewed_is_denied(self, api, issuer, reviewed):
        """Kubernetes is away: Vault does not tell that from a no."""
        api.ok("POST", "auth/kubernetes/config", {"kubernetes_host": "http://127.0.0.1:1"})
        assert refusal(api, "kubernetes/login", role="app", jwt=issuer.service_account("app")) == LOCKED
        assert refusal(api, "kubernetes/login", role="app", jwt="garbage") == LOCKED


class TestQuotas:
    """Rate limits."""

    def statuses(self, api, count=3):
        return [api.ask("GET", "v/creds/x")[0] for _ in range(count)]

    def test_the_most_exact_path_counts(self, api):
        """A path's quota, then its mount's, then that of everything."""
        api.ok("POST", "sys/quotas/rate-limit/all", {"rate": 4, "interval": 60})
        api.ok("POST", "sys/quotas/rate-limit/mount", {"path": "v", "rate": 5, "interval": 60})
        api.ok("POST", "sys/quotas/rate-limit/path", {"path": "v/creds/x", "rate": 1, "interval": 60})
        assert self.statuses(api) == [200, 429, 429]
        api.ok("DELETE", "sys/quotas/rate-limit/path")
        assert self.statuses(api) == [200, 200, 200]

    def test_health_is_exempt_and_intervals_pass(self, api):
        """The next interval has all requests again."""
        api.ok("POST", "sys/quotas/rate-limit/all", {"path": "v", "rate": 1, "interval": 10})
        assert self.statuses(api, 2) == [200, 429]
        api.server.step(10)
        assert self.statuses(api, 2) == [200, 429]
        assert [api.ask("GET", "sys/health")[0] for _ in range(3)] == [200] * 3

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ({"rate": 0}, "'rate' is invalid"),
            ({"rate": 1, "path": "nowhere/"}, 'invalid mount path "nowhere/"'),
            ({"rate": 1, "path": "v"}, 'quota rule with similar properties exists under the name "known"'),
        ],
    )
    def test_bad_quotas_are_refused(self, api, body, text):
        """With Vault's words."""
        api.ok("POST", "sys/quotas/rate-limit/known", {"path": "v/", "rate": 9})
        assert api.refusal("POST", "sys/quotas/rate-limit/new", body) == (400, text)
