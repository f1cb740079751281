"""
How a Vault is set up, and what happens on the way to it.
"""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
import warnings
import weakref

import pytest

from tests.unit.vault.fake_http import serve
from tests.unit.vault.fake_vault import BY_POLICY
from vault_pool.core.lease import Lease
from vault_pool.errors import ConfigurationError, LeaseLost, VaultRefused, VaultUnavailable
from vault_pool.vault import environment, notices
from vault_pool.vault.auth import AppRole, Token
from vault_pool.vault.client import Vault
from vault_pool.vault.connection import _pools
from vault_pool.vault.instant import instant
from vault_pool.vault.limiter import RateLimiter


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """No variable of Vault's own is set, nobody has logged in by hand, and nothing was warned of yet."""
    import os

    monkeypatch.setenv("HOME", str(tmp_path))

    for name in list(os.environ):
        if name.startswith(("VAULT_", "BAO_")) and not name.startswith("VAULT_POOL_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(notices, "_said", set())


def test_importing_is_cheap():
    """Neither hvac, requests nor tenacity is loaded before the first request."""
    code = (
        "import sys, vault_pool.sources.dynamic_role\n"
        "from vault_pool.vault.client import Vault\nfrom vault_pool.vault.auth import Token\n"
        "Vault('http://127.0.0.1:1', auth=Token('x'))\n"
        "sys.exit(' '.join({'hvac', 'requests', 'tenacity', 'cryptography'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "address",
    ["", "vault:8200", "ftp://vault", "https://", "https://vault:x", "unix://s", "unix:///", None, [], [None]],
)
def test_an_address_that_cannot_be_is_refused(address):
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match="VAULT_ADDR"):
        Vault(address, auth=Token("x"))


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), True, "5"])
def test_a_timeout_is_a_positive_number(timeout):
    """Every request has one."""
    with pytest.raises(ConfigurationError, match="timeout"):
        Vault("https://vault", auth=Token("x"), timeout=timeout)


def test_no_address_in_the_environment_is_told():
    """The error names the variable that is missing, and then the login that is."""
    with pytest.raises(ConfigurationError, match="VAULT_ADDR"):
        Vault.from_env()


def test_no_login_in_the_environment_is_told(monkeypatch):
    """Without a token and a role_id there is no way in."""
    monkeypatch.setenv("VAULT_ADDR", "https://vault")
    with pytest.raises(ConfigurationError, match="VAULT_ROLE_ID"):
        Vault.from_env()


def test_the_environment_is_read_when_the_object_is_made(monkeypatch):
    """All settings arrive, BAO_ before VAULT_, and later changes do nothing."""
    for name, value in {
        "VAULT_ADDR": "https://vault:8200/",
        "BAO_NAMESPACE": "team",
        "VAULT_NAMESPACE": "other",
        "VAULT_CACERT": "/ca.pem",
        "VAULT_CLIENT_TIMEOUT": "1m30s",
        "VAULT_CLIENT_CERT": "/c.pem",
        "VAULT_CLIENT_KEY": "/k.pem",
        "VAULT_TOKEN": "hvs.x",
    }.items():
        monkeypatch.setenv(name, value)
    vault = Vault.from_env()
    monkeypatch.setenv("VAULT_ADDR", "https://elsewhere")
    endpoint = vault._endpoint
    assert (endpoint.address, endpoint.namespace, endpoint.verify) == ("https://vault:8200", "team", "/ca.pem")
    assert (endpoint.timeout, endpoint.cert) == (90.0, ("/c.pem", "/k.pem"))
    assert isinstance(vault._auth, Token)


def test_an_empty_bao_variable_wins(monkeypatch):
    """As in OpenBao's own client."""
    monkeypatch.setenv("VAULT_NAMESPACE", "x")
    monkeypatch.setenv("BAO_NAMESPACE", "")
    assert environment.variable("NAMESPACE") == ""


@pytest.mark.parametrize(
    ("text", "seconds"), [("60", 60), ("2.5", 2.5), ("60s", 60), ("1h1m1s", 3661), ("250ms", 0.25)]
)
def test_durations_are_read_as_go_writes_them(monkeypatch, text, seconds):
    """Seconds, or Go's notation."""
    monkeypatch.setenv("VAULT_CLIENT_TIMEOUT", text)
    assert environment.duration("CLIENT_TIMEOUT", 1.0) == seconds


@pytest.mark.parametrize(("name", "text"), [("CLIENT_TIMEOUT", "soon"), ("SKIP_VERIFY", "maybe")])
def test_what_cannot_be_read_is_told(monkeypatch, name, text):
    """The variable is named."""
    monkeypatch.setenv("VAULT_ADDR", "https://vault")
    monkeypatch.setenv("VAULT_TOKEN", "x")
    monkeypatch.setenv(f"VAULT_{name}", text)
    with pytest.raises(ConfigurationError, match=f"VAULT_{name}"):
        Vault.from_env()


def test_skipping_verification_warns(monkeypatch, caplog):
    """VAULT_SKIP_VERIFY is honoured, with a warning and a log line."""
    monkeypatch.setenv("VAULT_ADDR", "https://vault")
    monkeypatch.setenv("VAULT_TOKEN", "x")
    monkeypatch.setenv("VAULT_SKIP_VERIFY", "true")
    with pytest.warns(UserWarning, match="VAULT_SKIP_VERIFY") as caught:
        vault = Vault.from_env()
    assert vault._endpoint.verify is False
    assert caught[0].filename == __file__
    assert "VAULT_SKIP_VERIFY" in caplog.text


def test_plain_http_warns_once_unless_it_stays_on_the_machine():
    """Loopback needs no TLS; anything else is warned of, once."""
    for host in ("127.0.0.1", "localhost", "[::1]", "vault.localhost", "127.8.9.1"):
        Vault(f"http://{host}:8200", auth=Token("x"))
    with pytest.warns(UserWarning, match="not encrypted") as caught:
        Vault("http://vault:8200", auth=Token("x"))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Vault("http://vault:8200", auth=Token("x"))


def test_a_login_by_environment(monkeypatch, tmp_path):
    """AppRole takes a secret_id or a file of it, and says what is missing."""
    with pytest.raises(ConfigurationError, match="VAULT_ROLE_ID"):
        AppRole.from_env()
    with pytest.raises(ConfigurationError, match="VAULT_TOKEN"):
        Token.from_env()
    monkeypatch.setenv("VAULT_ROLE_ID", "r")
    with pytest.raises(ConfigurationError, match="VAULT_SECRET_ID_FILE"):
        AppRole.from_env()
    monkeypatch.setenv("VAULT_SECRET_ID_FILE", str(tmp_path / "s"))
    assert AppRole.from_env()._secret_id.may_change


def test_every_request_carries_the_headers(world):
    """X-Vault-Request always (an agent may demand it), the namespace if there is one, no token at a login."""
    here = world()
    here.read()
    assert all(request.headers["X-Vault-Request"] == "true" for request in here.http.seen)
    assert [request.headers.get("X-Vault-Token") for request in here.http.seen] == [None, "hvs.token-1"]
    with serve(lambda _: (200, {}, {})) as fake:
        vault = Vault(fake.address, auth=Token("x"), namespace="team/a")
        vault.request("GET", "sys/health", token=None)
        assert fake.seen[0].headers["X-Vault-Namespace"] == "team/a"
        vault.close()


# --- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_server():
    """An HTTPS server on loopback, and its certificate's files."""
    from vault_pool.devserver.tls import ThrowawayCertificate

    certificate = ThrowawayCertificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate_file, certificate.key_file)
    with serve(lambda _: (200, {}, {"sealed": False}), tls=context) as fake:
        yield fake, certificate
    certificate.close()


def test_a_ca_file_makes_a_private_certificate_trusted(tls_server):
    """verify is the path of a CA file."""
    fake, certificate = tls_server
    vault = Vault(fake.address, auth=Token("x"), verify=certificate.ca_file)
    assert vault.request("GET", "sys/health", token=None).status == 200
    vault.close()


def test_a_certificate_that_is_not_trusted_is_told_with_the_setting(tls_server):
    """It is not tried again, since somebody has to change something."""
    fake, _ = tls_server
    vault = Vault(fake.address, auth=Token("x"))
    with pytest.raises(VaultUnavailable, match=r"not trusted.*verify \(VAULT_CACERT\)") as caught:
        vault.request("GET", "sys/health", token=None)
    assert (caught.value.retryable, caught.value.created_nothing) == (False, True)
    vault.close()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_read_is_told_with_the_setting(tls_server, tmp_path, content):
    """Missing or no certificate at all: the setting is named."""
    fake, _ = tls_server
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    vault = Vault(fake.address, auth=Token("x"), verify=file)
    with pytest.raises(VaultUnavailable, match=r"verify \(VAULT_CACERT\)") as caught:
        vault.request("GET", "sys/health", token=None)
    assert not caught.value.retryable
    vault.close()


def test_https_to_a_plain_server_is_told_as_such():
    """TLS failed, with OpenSSL's word for it."""
    with serve(lambda _: (200, {}, {})) as fake:
        vault = Vault(fake.address.replace("http:", "https:"), auth=Token("x"))
        with pytest.raises(VaultUnavailable, match="TLS failed"):
            vault.request("GET", "sys/health", token=None)
        vault.close()


# --- Attempts and limits -----------------------------------------------------------------------------------


def test_what_surely_did_nothing_is_tried_again_at_once(world):
    """A Vault that seals for a moment costs two requests, and no error."""
    here = world()
    here.read()
    answers = [(503, {}, {"errors": ["Vault is sealed"]})]
    here.fake.before = lambda _: answers.pop() if answers else None
    here.read()
    assert here.count("creds/app") == 3


@pytest.mark.parametrize(
    "answer", [(500, {}, {"errors": ["internal error"]}), (502, {}, "<html>"), (429, {}, {"errors": ["q"]})]
)
def test_what_may_have_done_something_is_not_tried_again(world, answer):
    """Each read makes a database role; and who is asked to slow down does."""
    here = world()
    here.read()
    here.fake.before = lambda _: answer
    with pytest.raises(VaultUnavailable):
        here.read()
    assert here.count("creds/app") == 2


def test_closing_cuts_the_pauses_between_attempts_short(world):
    """Nobody waits for a Vault that is away when the pool closes."""
    here = world()
    here.keeper._transport.closing.set()
    here.fake.before = lambda _: (503, {}, {"errors": ["Vault is sealed"]})
    with pytest.raises(VaultUnavailable):
        here.read()
    assert len(here.http.seen) == 1


def test_a_bug_cannot_ask_vault_without_end(world):
    """After a burst of 50 requests there are 20 a second; the error says when there is leave again."""
    here = world()
    here.fake.before = lambda request: BY_POLICY if request.path == "x" else None
    for _ in range(50):
        with pytest.raises(Exception, match="capabilities"):
            here.vault.request("GET", "x", token=None)
    with pytest.raises(VaultUnavailable, match="asks Vault too much") as caught:
        here.vault.request("GET", "x", token=None)
    assert caught.value.retry_after == pytest.approx(0.05)
    assert len(here.http.seen) == 50


def test_the_allowance_refills_with_time():
    """20 requests a second, and never more than the burst."""
    at = [0.0]
    limiter = RateLimiter(lambda: at[0], burst=2, rate=20)
    assert [limiter.take() > 0 for _ in range(3)] == [False, False, True]
    at[0] += 100
    assert [limiter.take() > 0 for _ in range(3)] == [False, False, True]
    at[0] -= 50
    assert limiter.take() > 0


# --- Doubtful answers for leases ---------------------------------------------------------------------------


def lease_of(here, duration=60.0):
    """A lease read by *here*, as if granted for *duration*."""
    issued = here.read().lease
    return Lease.issued(issued.lease_id, duration, here.runtime.clock.now())


def lookup(ttl, **more):
    """What sys/leases/lookup answers."""
    return 200, {}, {"data": {"ttl": ttl, **more}}


def by_path(**answers):
    """Answer the last word of the path with what is given for it."""
    return lambda request: answers.get(request.path.rpartition("/")[2])


BROKEN = (500, {}, {"errors": ["operation could not be completed as storage is read-only"]})


def test_a_failed_renewal_that_was_carried_out_counts(world):
    """After a 500 the lease is looked up: the end moved, so that it was renewed for what Vault wrote down."""
    here = world()
    lease = lease_of(here)
    here.runtime.clock.instant += 40
    now = here.runtime.clock.now()
    times = {"last_renewal": "2026-01-01T00:00:00.123456789Z", "expire_time": "2026-01-01T01:01:00.123456789+01:00"}
    here.fake.before = by_path(renew=BROKEN, lookup=lookup(59, **times))
    assert here.role.renew(lease, now) == lease.renewed(60.0, now)


def test_a_failed_renewal_that_was_not_carried_out_is_an_error(world):
    """The end has not moved: the error of the renewal is raised, for another try."""
    here = world()
    lease = lease_of(here)
    here.runtime.clock.instant += 40
    here.fake.before = by_path(renew=BROKEN, lookup=lookup(20))
    with pytest.raises(VaultUnavailable, match="standby") as caught:
        here.role.renew(lease, here.runtime.clock.now())
    assert caught.value.retryable


def test_a_failed_renewal_of_a_lost_lease_is_a_lost_lease(world):
    """The lookup knows."""
    here = world()
    lease = lease_of(here)
    here.fake.before = by_path(renew=BROKEN, lookup=(400, {}, {"errors": ["invalid lease"]}))
    with pytest.raises(LeaseLost):
        here.role.renew(lease, here.runtime.clock.now())


@pytest.mark.parametrize("answer", [(204, {}, ""), (200, {"X-Cache": "HIT"}, {"lease_id": "x", "lease_duration": 60})])
def test_a_renewal_without_proof_is_looked_up(world, answer):
    """No body, or a cached one: only the lookup tells, and here it tells that nothing moved."""
    here = world()
    lease = lease_of(here)
    here.runtime.clock.instant += 40
    here.fake.before = by_path(renew=answer, lookup=lookup(20))
    with pytest.raises(VaultUnavailable, match="not granted"):
        here.role.renew(lease, here.runtime.clock.now())


def test_a_failed_revocation_that_was_carried_out_is_done(world):
    """The lookup finds no lease any more."""
    here = world()
    lease = lease_of(here)
    here.fake.before = by_path(revoke=BROKEN, lookup=(400, {}, {"errors": ["invalid lease"]}))
    here.role.revoke(lease)


def test_a_failed_revocation_is_tried_again_later(world):
    """The lookup still finds the lease: the error is raised, and is retryable."""
    here = world()
    lease = lease_of(here)
    here.fake.before = by_path(revoke=(400, {}, {"errors": ["failed to revoke entry: 2BP01"]}), lookup=lookup(20))
    with pytest.raises(VaultUnavailable, match="2BP01") as caught:
        here.role.revoke(lease)
    assert caught.value.retryable


def test_an_answer_that_is_no_credential_is_refused_and_its_lease_revoked(world):
    """A role with credential_type=rsa_private_key: the useless lease is given back."""
    here = world()
    body = {"lease_id": "database/creds/app/x", "lease_duration": 60, "data": {"username": "u", "rsa_private_key": "k"}}
    here.fake.before = lambda request: (200, {}, body) if "creds" in request.path else None
    with pytest.raises(VaultRefused, match="credential_type=password"):
        here.read()
    assert here.http.seen[-1].path == "sys/leases/revoke"
    assert here.http.seen[-1].body["lease_id"] == body["lease_id"]


def test_a_cached_credential_is_counted_from_when_it_was_issued(world):
    """A caching proxy adds an Age: that part of the lease has passed."""
    here = world()
    body = {"lease_id": "x", "lease_duration": 60, "renewable": True, "data": {"username": "u", "password": "p"}}
    here.fake.before = lambda request: (200, {"Age": "20"}, body) if "creds" in request.path else None
    assert here.read().lease.duration == 40


def test_a_credential_that_a_cache_repeats_is_looked_up(world):
    """A cache that was asked for a fresh one and hits is not believed: Vault says what is left of it, if anything."""
    here = world()
    body = {"lease_id": "x", "lease_duration": 60, "renewable": True, "data": {"username": "u", "password": "p"}}
    hit = (200, {"Age": "20", "X-Cache": "HIT"}, body)
    here.fake.before = by_path(app=hit, lookup=lookup(25))
    assert here.read().lease.duration == 25
    here.fake.before = by_path(app=hit, lookup=(400, {}, {"errors": ["invalid lease"]}))
    with pytest.raises(VaultUnavailable, match="cache"):
        here.read()


def test_caches_are_asked_for_fresh_credentials_only(world):
    """Each read of a credential is unlike any other; renewals are alike, so that an agent keeps one of them."""
    here = world()
    lease = lease_of(here)
    here.read()
    for _ in range(2):
        here.role.renew(lease, here.runtime.clock.now())
    marks = {
        path: [request.headers.get("X-Request-Id") for request in here.http.seen if request.path.endswith(path)]
        for path in ("creds/app", "renew")
    }
    assert len(set(marks["creds/app"])) == 2
    assert marks["renew"] == [None, None]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T01:00:10.5+01:00", 10.5),
        ("1970-01-01T00:00:00.000000001Z", 1e-9),
        ("1970-99-01T00:00:00Z", None),
        ("soon", None),
        (None, None),
    ],
)
def test_instants_are_read_in_any_zone(text, value):
    """RFC 3339 with nanoseconds, in the server's zone."""
    assert instant(text) == value


def test_closing_leaves_nothing_to_finalizers(world, monkeypatch):
    """At the end of Python they do nothing any more: a pool that is closed by then would leave its sockets open."""
    monkeypatch.setattr(weakref.finalize, "_shutdown", True)
    here = world()
    here.read()
    transport = here.vault._keeper._transport
    (adapter,) = transport._adapters.values()
    (pool,) = _pools(adapter.session)
    sockets = [connection.sock for connection in pool.pool.queue if connection is not None]
    assert [each.fileno() > 0 for each in sockets] == [True]
    transport.close()
    assert [each.fileno() for each in sockets] == [-1]


def test_many_threads_share_a_vault(world):
    """Requests of many threads neither mix their answers nor lose a lease."""
    here = world()
    leases = []
    threads = [threading.Thread(target=lambda: leases.append(here.read().lease.lease_id)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(leases) == sorted(here.fake.living_leases)
