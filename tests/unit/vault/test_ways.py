"""
The ways to Vault: redirects, several addresses, sockets, TLS, proxies.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.identities import Authority
from tests.unit.vault.fake_http import serve
from vault_pool.errors import ConfigurationError, VaultDenied, VaultRefused, VaultUnavailable
from vault_pool.vault.auth import TLSCertificate, Token
from vault_pool.vault.client import Vault
from vault_pool.vault.connection import proxies_for
from vault_pool.vault.endpoint import checked_proxies
from vault_pool.vault.redirect import Moved
from vault_pool.vault.secret import Secret

HEALTHY = (200, {}, {"sealed": False})
SEALED = (503, {}, {"errors": ["Vault is sealed"]})
PATH = "database/creds/app"


@contextlib.contextmanager
def way(address, **settings):
    """A function that makes a request by these settings and returns its answer."""
    vault = Vault(address, auth=Token("hvs.x"), **{"timeout": 2.0, **settings})
    try:
        yield lambda method="GET", path=PATH, body=None: vault.request(method, path, body, token=Secret("hvs.x"))
    finally:
        vault.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate authority."""
    return Authority(tmp_path_factory.mktemp("authority"))


def tls(files, authority=None):
    """A server's TLS, with *files* for certificate and key; with *authority* it demands a client certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    if authority is not None:
        context.load_verify_locations(authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


# --- Redirects ---------------------------------------------------------------------------------------------


def to(address, path=PATH):
    """A standby's answer."""
    return lambda _: (307, {"Location": f"{address}/v1/{path}"}, "")


def test_a_redirect_is_followed_once_with_all_that_was_sent():
    """The active node gets the same method, body and headers."""
    with serve(lambda _: HEALTHY) as active, serve(to(active.address)) as standby, way(standby.address) as request:
        assert request("PUT", body={"a": Secret("b")}).status == 200
        (seen,) = active.seen
        assert (seen.method, seen.path, seen.body) == ("PUT", PATH, {"a": "b"})
        assert (seen.headers["X-Vault-Token"], seen.headers["X-Vault-Request"]) == ("hvs.x", "true")


def test_only_one_redirect_is_followed():
    """Two standbys that send us back and forth are asked once each, and then a few times more."""
    with serve(lambda _: None) as a, serve(lambda _: None) as b:
        a.answer, b.answer = to(b.address), to(a.address)
        with way(a.address) as request, pytest.raises(VaultUnavailable, match="only one redirect") as caught:
            request()
        assert (caught.value.created_nothing, caught.value.retryable) == (True, True)
        assert (len(a.seen), len(b.seen)) == (3, 3)


def test_redirects_can_be_switched_off():
    """VAULT_DISABLE_REDIRECTS."""
    with serve(lambda _: HEALTHY) as active, serve(to(active.address)) as standby:
        with way(standby.address, follow_redirects=False) as request, pytest.raises(VaultUnavailable, match="redirect"):
            request()
        assert active.seen == []


def test_a_redirect_to_a_dead_node_did_nothing():
    """As for the seconds after the active node died: the request may be repeated."""
    with serve(to("http://127.0.0.1:1")) as standby, way(standby.address) as request:
        with pytest.raises(VaultUnavailable, match="refused") as caught:
            request()
        assert caught.value.created_nothing


@pytest.mark.parametrize(
    ("address", "location", "target"),
    [
        ("https://a:1", "https://b:2/v1/p", "https://b:2"),
        ("http://a:1", "https://b:2/v1/p", "https://b:2"),
        ("http://a:1", "http://b/prefix/v1/p", "http://b/prefix"),
        ("unix:///s", "https://b/v1/p", "https://b"),
        ("https://a:1", "http://a:1/v1/p", None),  # down
        ("unix:///s", "http://a:1/v1/p", None),
        ("https://a:1", "https://a:1/v1/p", None),  # to itself
        ("https://a:1", "https://sso.example/login?next=/v1/p", None),
        ("https://a:1", "https://b/v1/other", None),
        ("https://a:1", "https://b/v1/p?x=1", None),
        ("https://a:1", "https://user:pw@b/v1/p", None),
        ("https://a:1", "ftp://b/v1/p", None),
        ("https://a:1", "/v1/p", None),
        ("https://a:1", "https://b:x/v1/p", None),
        ("https://a:1", "https://[b/v1/p", None),
        ("https://a:1", "", None),
    ],
)
def test_where_a_redirect_may_lead(address, location, target):
    """The same path on another host, by a way that is as safe; a login page is none."""
    moved = Moved(status=307, location=location)
    assert moved.target(address, "p") == target
    assert "pw" not in f"{moved!r} {moved.host}"


# --- Several addresses -------------------------------------------------------------------------------------


def test_the_next_address_is_asked_where_surely_nothing_was_done_and_then_stays_first():
    """A sealed node, and one that is away, cost one request each, once."""
    with serve(lambda _: SEALED) as sealed, serve(lambda _: HEALTHY) as sound:
        addresses = ["http://127.0.0.1:1", sealed.address, sound.address]
        with way(addresses) as request:
            for _ in range(3):
                assert request().status == 200
        assert (len(sealed.seen), len(sound.seen)) == (1, 3)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((500, {}, {"errors": ["internal error"]}), VaultUnavailable),
        ((502, {}, "<html>"), VaultUnavailable),
        ((429, {}, {"errors": ["rate limit quota exceeded"]}), VaultUnavailable),
        ((403, {}, {"errors": ["permission denied"]}), VaultDenied),
        ((400, {}, {"errors": ["unknown role: x"]}), VaultRefused),
        (None, VaultUnavailable),
    ],
)
def test_an_answer_stays_an_answer(answer, error):
    """What may have done something is not repeated elsewhere, nor what another node would answer just the same."""
    with serve(lambda _: answer) as first, serve(lambda _: HEALTHY) as second:
        with way([first.address, second.address]) as request, pytest.raises(error):
            request()
        assert (len(first.seen), len(second.seen)) == (1, 0)


def test_all_addresses_share_one_timeout():
    """Two addresses that swallow everything, of which the first cannot even be connected to, take one timeout."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        # With its queue full a listener answers no further connection at all.
        for _ in range(4):
            blocked = stack.enter_context(socket.socket())
            blocked.setblocking(False)
            blocked.connect_ex(full.getsockname())
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        addresses = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in (full, deaf)]
        done, seconds = threading.Event(), 1.0
        with way(addresses, timeout=seconds) as request:
            timer = threading.Timer(seconds * 1.9, done.set)
            timer.start()
            with pytest.raises(VaultUnavailable, match="within 1 s"):
                request()
            assert not done.is_set()
            timer.cancel()


def test_an_address_whose_certificate_is_no_good_is_passed_over(authority):
    """It may stand beside a sound one, as while certificates are being renewed."""
    with (
        serve(lambda _: HEALTHY, tls=tls(authority.issue("elsewhere"))) as odd,
        serve(lambda _: HEALTHY) as sound,
        way([odd.address, sound.address], verify=authority.file) as request,
    ):
        assert request().status == 200


# --- Unix sockets ------------------------------------------------------------------------------------------


def test_a_unix_socket_is_dialled(tmp_path):
    """unix:///path speaks HTTP over the socket, to the host localhost; connections are kept."""
    with serve(lambda _: HEALTHY, path=str(tmp_path / "s")) as fake, way(fake.address) as request:
        for _ in range(2):
            assert request("PUT", body={"a": 1}).status == 200
        assert [seen.headers["Host"] for seen in fake.seen] == ["localhost"] * 2
        assert fake.seen[0].body == {"a": 1}


def test_a_unix_socket_that_is_not_there_is_told(tmp_path):
    """Nothing was done, and the path is named."""
    with (
        way(f"unix://{tmp_path}/s") as request,
        pytest.raises(VaultUnavailable, match=f"{tmp_path}/s.*ENOENT") as caught,
    ):
        request()
    assert (caught.value.created_nothing, caught.value.retryable) == (True, True)


# --- TLS ---------------------------------------------------------------------------------------------------


def test_the_servers_certificate_may_bear_another_name(authority):
    """tls_server_name is what it has to bear, and what the server is told (SNI); the address is not."""
    asked = []
    context = tls(authority.issue("vault.internal"))
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    with serve(lambda _: HEALTHY, tls=context) as fake:
        with way(fake.address, verify=authority.file, tls_server_name="vault.internal") as request:
            assert request().status == 200
        assert asked == ["vault.internal"]
        for name in (None, "other.internal"):
            with (
                way(fake.address, verify=authority.file, tls_server_name=name) as request,
                pytest.raises(VaultUnavailable, match="not trusted"),
            ):
                request()


def test_a_folder_of_ca_files_needs_no_hashed_names(authority, tmp_path):
    """Every file in it counts; an empty one, or one with a broken file, is told with the setting."""
    folder = tmp_path / "ca"
    (folder / "sub").mkdir(parents=True)
    with serve(lambda _: HEALTHY, tls=tls(authority.issue("v"))) as fake:

        def request():
            with way(fake.address, verify=folder, tls_server_name="v") as request:
                return request().status

        with pytest.raises(VaultUnavailable, match=r"verify \(VAULT_CACERT\) cannot be used: no file in it"):
            request()
        (folder / "other.pem").write_text(Authority(tmp_path).pem)
        with pytest.raises(VaultUnavailable, match="not trusted"):
            request()
        (folder / "ours.pem").write_text(authority.pem)
        assert request() == 200
        (folder / "zzz.pem").write_text("no certificate")
        with pytest.raises(VaultUnavailable, match=r"verify \(VAULT_CACERT\)"):
            request()


def test_a_ca_may_be_given_as_text(authority, monkeypatch):
    """VAULT_CACERT_BYTES goes before VAULT_CACERT."""
    with serve(lambda _: HEALTHY, tls=tls(authority.issue("v"))) as fake:
        for name, value in {"ADDR": fake.address, "CACERT_BYTES": authority.pem, "TLS_SERVER_NAME": "v"}.items():
            monkeypatch.setenv(f"VAULT_{name}", value)
        monkeypatch.setenv("VAULT_CACERT", "/nowhere")
        vault = Vault.from_env(Token("x"))
        assert vault.request("GET", "sys/health", token=None).status == 200
        vault.close()


def test_a_client_certificate_is_presented_and_read_again_after_trouble(authority, tmp_path):
    """Without one the server's demand is told; a certificate that was renewed in its file is used by itself."""
    server = tls(authority.issue("v"), authority)
    sound, wrong = authority.issue("client"), Authority(tmp_path).issue("client")
    files = tmp_path / "cert", tmp_path / "key"
    for file, content in zip(files, wrong, strict=True):
        file.write_bytes(content.read_bytes())
    with serve(lambda _: HEALTHY, tls=server) as fake:
        settings = {"verify": authority.file, "tls_server_name": "v"}
        # What a server says to a client without one depends on which of the two closes first.
        with way(fake.address, **settings) as request, pytest.raises(VaultUnavailable, match=r"VAULT_CLIENT_CERT|TLS"):
            request()
        with way(fake.address, cert=files, **settings) as request:
            with pytest.raises(VaultUnavailable):
                request()
            for file, content in zip(files, sound, strict=True):
                file.write_bytes(content.read_bytes())
            assert request().status == 200


def test_a_client_certificate_that_cannot_be_used_is_told(authority, tmp_path):
    """Missing, no certificate, or with a key that needs a password, which is not asked for on the terminal."""
    encrypted = authority.issue("locked", password="p")
    (tmp_path / "none").write_text("x")
    with serve(lambda _: HEALTHY, tls=tls(authority.issue("v"))) as fake:
        for cert in (tmp_path / "missing", str(tmp_path / "none"), encrypted):
            with (
                way(fake.address, verify=authority.file, cert=cert) as request,
                pytest.raises(VaultUnavailable, match=r"cert \(VAULT_CLIENT_CERT, VAULT_CLIENT_KEY\)") as caught,
            ):
                request()
            assert not caught.value.retryable


@pytest.mark.parametrize("settings", [{"cert": 1}, {"cert": ("a",)}, {"verify": 1}, {"verify": ""}, {"verify": None}])
def test_settings_of_tls_that_cannot_be_are_refused(settings):
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        Vault("https://vault", auth=Token("x"), **settings)


def test_a_login_by_certificate_needs_one():
    """And says which setting is missing."""
    with pytest.raises(ConfigurationError, match="VAULT_CLIENT_CERT"):
        Vault("https://vault", auth=TLSCertificate())


# --- Proxies and the environment ---------------------------------------------------------------------------


class Tunnel(BaseHTTPRequestHandler):
    """A proxy that tunnels to wherever it is asked."""

    def do_CONNECT(self):
        self.server.asked.append(self.path)
        if self.server.refuses:
            self.send_error(407)
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((self.server.targets.get(host, host), int(port))) as target:
            self.send_response(200)
            self.end_headers()
            while True:
                for ready in select.select([target, self.connection], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    (self.connection if ready is target else target).sendall(data)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def tunnel(refuses=False, **targets):
    """Run a `Tunnel`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tunnel)
    server.asked, server.refuses, server.targets = [], refuses, targets
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server, f"http://user:Pr0xyPassword@127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_https_goes_through_a_tunnel(authority):
    """Our certificates count inside of it, too."""
    with serve(lambda _: HEALTHY, tls=tls(authority.issue("vault.internal"), authority)) as fake:
        port = fake.server.server_address[1]
        with (
            tunnel(**{"vault.internal": "127.0.0.1"}) as (server, proxy),
            way(
                f"https://vault.internal:{port}", proxy=proxy, verify=authority.file, cert=authority.issue("c")
            ) as request,
        ):
            assert request().status == 200
        assert server.asked == [f"vault.internal:{port}"]


def test_a_proxy_that_refuses_is_told_without_its_password():
    """Nothing was done, and the setting is named."""
    with (
        tunnel(refuses=True) as (_, proxy),
        way("https://vault.internal", proxy=proxy) as request,
        pytest.raises(VaultUnavailable, match=r"proxy refused \(.*407.*VAULT_PROXY_ADDR") as caught,
    ):
        request()
    assert caught.value.created_nothing
    assert "Pr0xyPassword" not in str(caught.value)


def test_plain_http_is_forwarded():
    """The proxy gets the whole URL."""
    with serve(lambda _: HEALTHY) as proxy:
        with pytest.warns(UserWarning, match="not encrypted"):
            vault = Vault("http://vault.internal:8200", auth=Token("x"), proxy=proxy.address)
        assert vault.request("GET", PATH, token=None).status == 200
        vault.close()
        assert proxy.seen[0].path == f"http://vault.internal:8200/v1/{PATH}"


@pytest.mark.parametrize(
    ("proxies", "address", "chosen"),
    [
        ({"https": "P", "no": ""}, "https://vault", {"https": "P"}),
        ({"all": "P", "no": ""}, "https://vault", {"https": "P"}),
        ({"http": "P", "no": ""}, "https://vault", {}),
        ({"https": "P", "no": ".internal"}, "https://vault.internal:8200", {}),
        ({"https": "P", "no": "*"}, "https://vault", {}),
        ({"https": "P", "no": "10.0.0.0/8"}, "https://10.1.2.3:8200", {}),
        ({"https": "P", "no": "10.0.0.0/8"}, "https://11.1.2.3:8200", {"https": "P"}),
        ({"https": "P", "http": "P", "no": ""}, "https://127.0.0.1:8200", {}),
        ({"https": "P", "no": ""}, "https://localhost", {}),
        ({"https": "P", "http": "P"}, "http://127.0.0.1:8200", {"http": "P"}),
        ({"https": "P", "http": "P"}, "unix:///s", {}),
        ({}, "https://vault", {}),
    ],
)
def test_which_proxy_is_for_whom(proxies, address, chosen):
    """The environment's is not for loopback nor for NO_PROXY; one that was set for Vault always is."""
    assert proxies_for(checked_proxies(proxies), address) == chosen


def test_the_proxy_is_read_from_the_environment_when_the_object_is_made(monkeypatch):
    """VAULT_PROXY_ADDR before VAULT_HTTP_PROXY before HTTPS_PROXY; an empty setting is for none."""
    monkeypatch.setenv("HTTPS_PROXY", "http://general:1")
    monkeypatch.setenv("VAULT_ADDR", "https://vault")

    def chosen(vault):
        return proxies_for(vault._endpoint.proxies, "https://vault").get("https")

    assert chosen(Vault("https://vault", auth=Token("x"))) == "http://general:1"
    assert chosen(Vault("https://vault", auth=Token("x"), proxy="")) is None
    monkeypatch.setenv("VAULT_HTTP_PROXY", "http://vaults:2")
    assert chosen(Vault.from_env(Token("x"))) == "http://vaults:2"
    monkeypatch.setenv("VAULT_PROXY_ADDR", "http://newest:3")
    assert chosen(Vault.from_env(Token("x"))) == "http://newest:3"


@pytest.mark.parametrize("proxy", ["proxy:3128", "ftp://proxy", "http://", "http://p:x", 5])
def test_a_proxy_that_cannot_be_is_refused(proxy):
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match="VAULT_PROXY_ADDR"):
        Vault("https://vault", auth=Token("x"), proxy=proxy)


def test_nothing_else_of_the_environment_reaches_a_request(monkeypatch, tmp_path):
    """A ~/.netrc for the host is not sent along, which requests would do."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password Passw0rd\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serve(lambda _: HEALTHY) as fake, way(fake.address) as request:
        request()
        assert "Authorization" not in fake.seen[0].headers


def test_the_bundle_of_requests_is_honoured_unless_there_is_a_setting(monkeypatch):
    """REQUESTS_CA_BUNDLE is what who comes from hvac has set."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/bundle.pem")
    assert Vault("https://vault", auth=Token("x"))._endpoint.verify == "/bundle.pem"
    assert Vault("https://vault", auth=Token("x"), verify="/ca.pem")._endpoint.verify == "/ca.pem"
