"""
What logins do with files, settings and answers; that they work is shown against real servers, in tests/integration.
"""

from __future__ import annotations

import contextlib
import logging
import threading

import pytest

from tests.unit.vault.fake_vault import DENIED
from vault_pool.core.machine import Owner
from vault_pool.errors import ConfigurationError, VaultDenied, VaultError, VaultUnavailable
from vault_pool.vault import notices
from vault_pool.vault.auth import (
    JWT,
    LDAP,
    AgentToken,
    AppRole,
    CustomLogin,
    Kubernetes,
    TLSCertificate,
    Token,
    UserPass,
)
from vault_pool.vault.client import Vault


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch, tmp_path):
    """Nothing was warned of yet, and nobody has logged in by hand."""
    monkeypatch.setattr(notices, "_said", set())
    monkeypatch.setenv("HOME", str(tmp_path))


# --- Settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Token, "token or token_file"),
        (lambda: Token("x", token_file="f"), "not both"),
        (lambda: Token("a b\n"), "token must be a printable text"),
        (lambda: Token(""), "not empty"),
        (lambda: Token(5), "token must be"),
        (lambda: AppRole(""), "role_id"),
        (lambda: AppRole("r", "s", wrapping_token="w"), "not both"),
        (lambda: AppRole("r", wrapping_token="w", wrapping_token_file="f"), "wrapping_token_file, not both"),
        (lambda: AppRole("r", "s", role_name="app"), "role_name"),
        (lambda: AppRole("r", "s", mount_point="a b"), "mount_point"),
        (lambda: AppRole("r", "s", mount_point="../sys"), "mount_point"),
        (lambda: AppRole("r", "s", mount_point=None), "mount_point"),
        (lambda: Kubernetes(None), "role"),
        (lambda: Kubernetes(" "), "role"),
        (lambda: Kubernetes("r", token_file=None), "token_file"),
        (lambda: JWT("r"), "token or token_file"),
        (lambda: JWT(5, "x"), "role"),
        (lambda: UserPass("", "p"), "username"),
        (lambda: UserPass("u"), "password or password_file"),
        (lambda: UserPass("u", ""), "password must be a text, and not empty"),
        (lambda: LDAP("u\n", "p"), "username"),
        (lambda: LDAP("u", "p", mount_point=""), "ldap auth method"),
        (lambda: TLSCertificate(""), "role"),
        (lambda: CustomLogin("x"), "callable"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, words):
    """At construction, by an error that names the setting."""
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_which_login_the_environment_is_for(monkeypatch, tmp_path):
    """A token, else AppRole, else what `vault login` left, else what the agent adds."""
    monkeypatch.setenv("VAULT_ADDR", "https://vault")
    monkeypatch.setenv("VAULT_AGENT_ADDR", f"unix://{tmp_path}/s")
    assert isinstance(Vault.from_env()._auth, AgentToken)
    assert Vault.from_env().address == f"unix://{tmp_path}/s"
    (tmp_path / ".vault-token").write_text("hvs.x")
    assert Vault.from_env()._auth._material._file == tmp_path / ".vault-token"
    monkeypatch.setenv("BAO_TOKEN_PATH", str(tmp_path / "elsewhere"))
    assert Vault.from_env()._auth._material._file == tmp_path / "elsewhere"
    monkeypatch.setenv("VAULT_ROLE_ID", "r")
    monkeypatch.setenv("VAULT_SECRET_ID", "s")
    assert isinstance(Vault.from_env()._auth, AppRole)
    monkeypatch.setenv("VAULT_TOKEN", "hvs.y")
    assert Vault.from_env()._auth._material._file is None
    monkeypatch.setenv("VAULT_SRV_LOOKUP", "1")
    with pytest.raises(ConfigurationError, match="VAULT_SRV_LOOKUP"):
        Vault.from_env()


# --- Files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"two\nlines", "not one line"),
        (b"\xff\xfe", "it is not text"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(world, tmp_path, content, words):
    """At the first login, with the name of the setting and of the file, and without its content."""
    file = tmp_path / "secret_id"
    if content is not None:
        file.write_bytes(content)
    here = world(auth=AppRole("r", secret_id_file=file))
    with pytest.raises(VaultDenied, match=f"secret_id_file '{file}' cannot be used: .*{words}") as caught:
        here.read()
    assert caught.value.__context__ is None
    assert here.http.seen == []


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_secret_file_for_everybody_is_warned_of_once(world, tmp_path, caplog, mode, warned):
    """With its mode and the remedy; a group may well need it."""
    file = tmp_path / "secret_id"
    file.write_text("s")
    file.chmod(mode)
    here = world(auth=AppRole("r", secret_id_file=file), ttl=100, renewable=False)
    here.read()
    here.runtime.clock.instant += 60
    here.read()
    assert here.count("login") == 2
    lines = [record.getMessage() for record in caplog.records if "chmod 600" in record.getMessage()]
    assert len(lines) == warned
    assert all(f"secret_id_file '{file}'" in line and f"mode {mode:04o}" in line for line in lines)


def test_the_token_of_a_service_account_may_be_read_by_everybody(world, tmp_path, caplog):
    """The kubelet makes it so."""
    (tmp_path / "token").write_text("jwt")
    (tmp_path / "token").chmod(0o644)
    world(auth=Kubernetes("app", token_file=tmp_path / "token")).read()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_login_sends_what_its_method_wants(world, tmp_path):
    """Path and body of each method; names with odd letters are quoted, passwords taken as they are."""
    (tmp_path / "p").write_text(" with spaces \r\n")
    for auth, path, body in [
        (Kubernetes("app", token_file=tmp_path / "p"), "kubernetes", {"jwt": "with spaces", "role": "app"}),
        (JWT(token="j", mount_point="/oidc/"), "oidc", {"jwt": "j"}),
        (TLSCertificate(), "cert", {}),
        (UserPass("bob", password_file=tmp_path / "p"), "userpass", {"password": " with spaces "}),
        (LDAP("a/b c", "p", mount_point="ad"), "ad", {"password": "p"}),
    ]:
        here = world(auth=CustomLogin(auth.login))
        here.fake.before = lambda request: (
            (200, {}, {"auth": {"client_token": "hvs.x"}}) if "/login" in request.path else (200, {}, {"data": {}})
        )
        here.vault.call("GET", "sys/health")
        assert here.http.seen[0].path.startswith(f"auth/{path}/login")
        assert here.http.seen[0].body == (body or {})
    assert here.http.seen[0].path == "auth/ad/login/a%2Fb%20c"


# --- Refusals ----------------------------------------------------------------------------------------------


def test_methods_without_a_lockout_are_asked_once_a_minute(world):
    """Kubernetes answers 403 when its API is away: sixteen minutes of waiting would be for nothing."""
    here = world(auth=JWT("app", "j"))
    here.fake.refuse_logins = DENIED
    for _ in range(60 * 60 // 5):
        with contextlib.suppress(VaultDenied):
            here.read()
        here.runtime.clock.instant += 5
    assert 40 <= len(here.fake.logins) <= 61


def test_the_lockout_is_respected_whatever_is_asked_of_a_vault(world):
    """Two sources, upkeep, and applications of their own share the one count."""
    here = world(auth=UserPass("bob", "wrong"), given=None)
    here.fake.before = lambda request: (
        (400, {}, {"errors": ["invalid username or password"]}) if "/login/" in request.path else None
    )
    here.attach()

    def refused():
        with contextlib.suppress(VaultDenied):
            here.read()

    for _ in range(100):
        threads = [threading.Thread(target=refused) for _ in range(4)]
        for thread in threads:
            thread.start()
        with contextlib.suppress(VaultDenied):
            here.vault.call("GET", "sys/health")
        for thread in threads:
            thread.join()
        here.runtime.advance(31)
    assert here.count("login/bob") <= 2 * 3100 / 1020 + 2


# --- Tokens that others care for ---------------------------------------------------------------------------


def test_a_token_file_is_read_again_when_its_token_is_refused_or_near_its_end(world, tmp_path):
    """Upkeep finds the successor that an agent wrote before the old token ends; so does a request after a 403."""
    here = world(auth=Token(token_file=tmp_path / "t"))

    def sink(**settings):
        (tmp_path / "t").write_text(here.fake.make_token(renewable=False, ttl=100, **settings))

    sink()
    here.attach()
    first = here.read().lease
    here.runtime.advance(50)
    sink()
    here.runtime.advance(45)
    assert here.role.owner(first).final
    second = here.read().lease
    assert here.role.owner(second).expires_at > here.runtime.clock.now() + 50
    here.fake.tokens["hvs.token-3"].revoked = True
    sink()
    here.read()
    assert here.role.owner(second).dead
    assert here.count("login") == 0


def test_an_agents_token_is_looked_at_and_left_alone(world):
    """No request carries a token; the agent renews it, and when it logs in anew the old one's end stays what it was."""
    here = world(auth=AgentToken())
    token = {"ttl": 100, "expire_time": "2026-01-01T00:00:00Z", "creation_time": 1, "renewable": True}
    body = {"lease_id": "x", "lease_duration": 3600, "renewable": True, "data": {"username": "u", "password": "p"}}
    here.fake.before = lambda request: (200, {}, {"data": token} if "lookup-self" in request.path else body)
    here.attach()
    start = here.runtime.clock.now()
    first = here.read().lease
    assert here.role.owner(first) == Owner(expires_at=start + 100, term=100, final=True)
    here.runtime.advance(60)
    token["ttl"] = 90  # renewed
    here.runtime.advance(30)
    assert here.role.owner(first).expires_at > start + 140
    ends = here.role.owner(first).expires_at
    token.update(creation_time=2, ttl=100)
    body["lease_id"] = "y"
    here.runtime.advance(60)
    second = here.read().lease
    assert here.role.owner(first).expires_at <= ends + 10
    assert here.role.owner(second).expires_at > ends
    here.role.detach(here.wake)
    assert not any("X-Vault-Token" in request.headers for request in here.http.seen)
    assert {request.path.rpartition("/")[2] for request in here.http.seen} == {"lookup-self", "app"}


def test_an_agent_without_a_token_is_told_as_such(world):
    """The error says where to look."""
    here = world(auth=AgentToken())
    here.fake.before = lambda request: DENIED
    with pytest.raises(VaultDenied, match="use_auto_auth_token"):
        here.read()


# --- Logins of the application's own -----------------------------------------------------------------------


def test_a_token_that_a_login_of_the_applications_own_brings_is_not_revoked(world):
    """A token as text was given; one out of the answer to a login is ours to revoke."""
    for wrap, revoked in [(lambda auth: auth["client_token"], 0), (lambda auth: auth, 1), (lambda a: {"auth": a}, 1)]:
        made = []
        here = world(auth=CustomLogin(lambda client, wrap=wrap, made=made: wrap(made[0])))
        token = here.fake.make_token()
        made.append(here.fake._auth(token, here.fake.tokens[token]))
        here.read()
        here.vault.close()
        assert here.count("revoke-self") == revoked


@pytest.mark.parametrize("made", [None, 5, {}, {"auth": {"client_token": ""}}, "", "a\nb"])
def test_what_is_no_login_is_told(world, made):
    """With the type of what came back."""
    here = world(auth=CustomLogin(lambda client: made, name="iam"))
    with pytest.raises(VaultDenied, match="'iam' returned neither a token nor the answer to a login") as caught:
        here.read()
    assert type(made).__name__ in str(caught.value)


def test_an_error_of_the_applications_own_is_told_by_its_type(world):
    """It may hold a secret, in its text, in its frames, and in what lies behind it; and it may pass."""

    def login(client):
        password = "S3cret"
        raise KeyError(password) from OSError(password)

    here = world(auth=CustomLogin(login))
    with pytest.raises(VaultError, match="failed with KeyError") as caught:
        here.read()
    assert caught.value.retryable
    assert (caught.value.__context__, caught.value.__cause__) == (None, None)
    assert "S3cret" not in "".join(f"{frame.frame.f_locals}" for frame in caught.traceback[1:])


def test_a_refusal_to_a_login_of_the_applications_own_is_held_back_as_any(world):
    """And its frames, which may hold the password, are left behind."""

    def login(client):
        password = "S3cret"
        return client.login("auth/ldap/login/bob", {"password": password})

    here = world(auth=CustomLogin(login))
    here.fake.before = lambda request: (400, {}, {"errors": ["ldap operation failed"]})
    for _ in range(10):
        with pytest.raises(VaultDenied, match="login was refused") as caught:
            here.read()
        assert "S3cret" not in "".join(f"{frame.frame.f_locals}" for frame in caught.traceback[1:])
        here.runtime.clock.instant += 31
    assert len(here.http.seen) == 2


# --- A wrapped secret_id -----------------------------------------------------------------------------------

ORIGIN = "auth/approle/role/app/secret-id"
INVALID = (400, {}, {"errors": ["wrapping token is not valid or does not exist"]})


def test_an_unwrapping_that_failed_by_chance_is_tried_again(world):
    """Where the answer was lost, the next error says that it may have been us."""
    here = world(auth=AppRole("r", wrapping_token="hvs.wrap"))
    answers = {"lookup": DENIED, "unwrap": (500, {}, {"errors": ["x"]})}  # the former of a gateway
    here.fake.before = lambda request: (
        answers[request.path.rpartition("/")[2]] if "sys/wrapping" in request.path else None
    )
    with pytest.raises(VaultDenied, match="403"):
        here.read()
    answers["lookup"] = (200, {}, {"data": {"creation_path": ORIGIN}})
    here.runtime.clock.instant += 31
    with pytest.raises(VaultUnavailable):
        here.read()
    answers["lookup"] = INVALID
    here.runtime.clock.instant += 31
    with pytest.raises(VaultDenied, match="by a request of ours whose answer was lost"):
        here.read()
    assert here.count("login") == 0


def test_a_wrapping_token_is_sent_in_no_url_and_no_login(world):
    """Looking it up takes no token of ours, unwrapping takes it as the token."""
    here = world(auth=AppRole("r", wrapping_token="hvs.wrap", role_name="app"))
    answers = {
        "lookup": (200, {}, {"data": {"creation_path": ORIGIN}}),
        "unwrap": (200, {}, {"data": {"secret_id": "s"}}),
    }
    here.fake.before = lambda request: (
        answers[request.path.rpartition("/")[2]] if "sys/wrapping" in request.path else None
    )
    here.read()
    lookup, unwrap, login, *_ = here.http.seen
    assert (lookup.path, lookup.body, lookup.headers.get("X-Vault-Token")) == (
        "sys/wrapping/lookup",
        {"token": "hvs.wrap"},
        None,
    )
    assert (unwrap.path, unwrap.body, unwrap.headers["X-Vault-Token"]) == ("sys/wrapping/unwrap", None, "hvs.wrap")
    assert login.body == {"role_id": "r", "secret_id": "s"}


# --- Leaving -----------------------------------------------------------------------------------------------


def test_who_comes_while_the_last_one_leaves_gets_a_token_of_its_own(world):
    """A pool that opens while another closes is neither forgotten nor given the token that is being revoked."""
    here = world()
    here.attach()
    here.read()
    woken, newcomer = [], threading.Thread(target=lambda: here.role.attach(here.runtime, lambda: woken.append(1)))
    take_all = here.keeper._take_all

    def slowly():
        newcomer.start()  # it waits for the ledger to be emptied
        newcomer.join(0.2)
        assert newcomer.is_alive()
        return take_all()

    here.keeper._take_all = slowly
    here.role.detach(here.wake)
    newcomer.join()
    assert here.count("revoke-self") == 1
    lease = here.read().lease
    assert woken
    assert lease.lease_id in here.fake.living_leases
    assert here.runtime.waiting == 1


@pytest.mark.parametrize("moment", ["before the revocation", "while it logs in"])
def test_a_request_that_is_late_leaves_no_token_behind(world, moment):
    """What is on its way when the last one leaves finds its token dead, or has just got one: nothing is left."""
    here = world()
    here.attach()
    if moment == "before the revocation":
        here.read()
    arrived, go_on = threading.Event(), threading.Event()

    def hold(request):
        if request.path.endswith("creds/app" if moment == "before the revocation" else "login"):
            arrived.set()
            go_on.wait(5)

    here.fake.before = hold
    errors = []

    def late():
        try:
            here.read()
        except VaultUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    assert arrived.wait(5)
    here.role.detach(here.wake)
    go_on.set()
    thread.join()
    assert "every pool that used it was closed" in str(errors[0])
    assert here.count("login") == 1
    assert not [token for token in here.fake.tokens if here.fake.alive(token)]
    here.attach()
    here.read()
