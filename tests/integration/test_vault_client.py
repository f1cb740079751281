"""
The client and the source of dynamic roles, against real servers.
"""

from __future__ import annotations

import math
import threading

import psycopg
import pytest

from tests.fix_postgres import Login
from vault_pool.core.machine import Owner
from vault_pool.errors import ConfigurationError, LeaseLost, VaultDenied, VaultRefused, VaultUnavailable
from vault_pool.runtime.clock import SystemClock
from vault_pool.runtime.scheduler import Runtime
from vault_pool.sources.dynamic_role import DynamicRole
from vault_pool.vault.auth import AppRole, Token
from vault_pool.vault.client import Vault

now = SystemClock().now


@pytest.fixture
def approle(vault_server, database):
    """A Vault logged in to by AppRole, and closed after the test; `approle(**role)` takes the role's settings."""
    opened = []

    def make(*policies, **settings):
        vault_server.database_role(database)
        login = vault_server.approle(*policies, **settings)
        auth = AppRole(login.role_id, login.secret_id, mount_point=login.mount_point)
        opened.append(Vault(vault_server.address, auth=auth))
        return opened[-1]

    yield make
    for vault in opened:
        vault.close()


@pytest.fixture
def given(vault_server, database):
    """A Vault with a token made with the settings of auth/token/create, and that token."""
    opened = []

    def make(*policies, **settings):
        vault_server.database_role(database)
        token = vault_server.token(*policies, **settings)
        opened.append(Vault(vault_server.address, auth=Token(token)))
        return opened[-1], token

    yield make
    for vault in opened:
        vault.close()


def alive(vault_server, token):
    """Tell whether the token is alive."""
    return vault_server.api("GET", "auth/token/lookup-self", token=token)[0] == 200


def token_of(vault):
    """Return the token that the Vault holds now."""
    return vault._keeper._ledger.current.secret.reveal()


def test_a_lease_is_read_renewed_and_revoked(approle, vault_server, database):
    """AppRole logs in, a read makes a role that logs in, a renewal gives the whole term, revoking drops the role."""
    role = DynamicRole("app", vault=approle(token_ttl="20m"), mount_point=vault_server.mount)
    before = now()
    issued = role.read(before)
    assert issued.lease.lease_id.startswith(role.name)
    assert (issued.lease.duration, issued.lease.issued_at, issued.lease.renewable) == (3600, before, True)
    login = Login(issued.credential.user, issued.credential.password)
    database.connect(login).close()

    owner = role.owner(issued.lease)
    assert (owner.term, owner.final, owner.dead) == (1200, False, False)
    assert before <= owner.expires_at - 1200 <= now()

    renewed = role.renew(issued.lease, before + 1)
    assert (renewed.duration, renewed.stamped_at, renewed.issued_at) == (3600, before + 1, before)
    role.revoke(renewed)
    assert vault_server.leases() == []
    assert database.roles() == []
    with pytest.raises(psycopg.OperationalError):
        database.connect(login)
    role.revoke(renewed)
    with pytest.raises(LeaseLost):
        role.renew(renewed, now())


def test_closing_revokes_a_token_of_ours_and_the_next_request_logs_in_again(approle, vault_server, database):
    """The last one out revokes our token, its leases with it; the Vault can be used again."""
    vault = approle()
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    role.read(now())
    token = token_of(vault)
    vault.close()
    assert not alive(vault_server, token)
    role.revoke(role.read(now()).lease)
    assert token_of(vault) != token


def test_a_given_token_is_never_revoked(given, vault_server):
    """A token that the application gave outlives us; its leases are revoked one by one."""
    vault, token = given(ttl="30m")
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    issued = role.read(now())
    assert math.isclose(role.owner(issued.lease).expires_at, now() + 1800, abs_tol=3)
    role.revoke(issued.lease)
    vault.close()
    assert alive(vault_server, token)


def test_a_root_token_has_no_end(vault_server, database):
    """Leases of a root token end by themselves only."""
    vault_server.database_role(database)
    vault = Vault(vault_server.address, auth=Token(vault_server.root_token))
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    issued = role.read(now())
    assert role.owner(issued.lease) == Owner()
    role.revoke(issued.lease)
    vault.close()


def test_an_hvac_client_lends_its_token_and_settings(vault_server, database):
    """from_client reads the token from the client at each login, and leaves it alone."""
    import hvac

    vault_server.database_role(database)
    client = hvac.Client(url=vault_server.address, token="s.dead", timeout=5)
    vault = Vault.from_client(client)
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    with pytest.raises(VaultDenied) as caught:
        role.read(now())
    assert caught.value.token_dead
    client.token = vault_server.token()
    vault.close()
    vault = Vault.from_client(client)
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    role.revoke(role.read(now()).lease)
    vault.close()
    assert alive(vault_server, client.token)
    client.adapter.close()


def test_many_threads_log_in_once(approle, vault_server, database):
    """Eight threads that need a token at once share one login."""
    vault = approle(token_num_uses=0)
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    start = threading.Barrier(8)
    logins, leases = [], []
    original = vault._auth.login

    def counted(client):
        logins.append(1)
        return original(client)

    vault._auth.login = counted

    def read():
        start.wait()
        leases.append(role.read(now()).lease)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(logins), len(leases)) == (1, 8)


# --- Tokens that end ---------------------------------------------------------------------------------------


def test_a_dead_token_is_replaced_and_its_leases_are_reported_dead(approle, vault_server):
    """A token revoked in mid-life costs one repeated request; the leases it issued are known to be dead."""
    vault = approle()
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    first = role.read(now())
    token = token_of(vault)
    vault_server.ask("POST", "auth/token/revoke", {"token": token})
    second = role.read(now())
    assert role.owner(first.lease).dead
    assert not role.owner(second.lease).dead
    assert token_of(vault) != token


def test_a_dead_given_token_is_for_others_to_replace(given, vault_server):
    """We say so, and that it is dead."""
    vault, token = given()
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    first = role.read(now())
    vault_server.ask("POST", "auth/token/revoke", {"token": token})
    with pytest.raises(VaultDenied, match="whoever gave it has to replace it") as caught:
        role.read(now())
    assert caught.value.token_dead
    assert role.owner(first.lease).dead


@pytest.mark.parametrize("uses", [2, 3, 7])
def test_the_last_use_of_a_token_is_never_spent(approle, vault_server, uses):
    """A token of few uses is replaced before its last one, so that all its leases stay alive."""
    vault = approle(token_num_uses=uses)
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    leases = [role.read(now()).lease for _ in range(4)]
    for _ in range(2):
        leases = [role.renew(lease, now()) for lease in leases]
    assert sorted(vault_server.leases()) == sorted(lease.lease_id for lease in leases)
    owners = [role.owner(lease) for lease in leases]
    assert not any(owner.dead for owner in owners)
    assert owners[0].final
    for lease in leases:
        role.revoke(lease)
    assert vault_server.leases() == []


def test_a_token_of_a_single_use_is_refused(approle, vault_server):
    """token_num_uses=1 can issue no lease; the error names the setting."""
    role = DynamicRole("app", vault=approle(token_num_uses=1), mount_point=vault_server.mount)
    with pytest.raises(VaultRefused, match="token_num_uses=1"):
        role.read(now())


def test_a_given_token_that_is_used_up_keeps_its_leases(given, vault_server):
    """With one use left a given token is used no more: spending it, or looking it up, would end its leases."""
    vault, _ = given(num_uses=4)
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    lease = role.renew(role.read(now()).lease, now())
    for _ in range(3):
        with pytest.raises(VaultDenied, match="one use left"):
            role.renew(lease, now())
    assert vault_server.leases() == [lease.lease_id]


def test_an_older_token_is_revoked_with_its_last_lease(approle, vault_server):
    """A token that was succeeded lives on for its leases, and goes with the last of them."""
    vault = approle(token_num_uses=3)
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    first = role.read(now()).lease
    token = token_of(vault)
    second = role.read(now()).lease
    third = role.read(now()).lease
    assert token_of(vault) != token
    accessors = len(vault_server.ask("LIST", "auth/token/accessors")["data"]["keys"])
    role.revoke(first)
    assert role.owner(second) != Owner()
    role.revoke(second)
    role.revoke(third)
    assert len(vault_server.ask("LIST", "auth/token/accessors")["data"]["keys"]) <= accessors
    assert not alive(vault_server, token)


def test_a_batch_token_gives_capped_leases(approle, vault_server):
    """Leases of a batch token end with it, and their owner is final from the start."""
    vault = approle(token_type="batch", token_ttl="90s")
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    lease = role.read(now()).lease
    assert lease.duration <= 90
    assert role.owner(lease).final
    role.revoke(lease)


def test_a_token_that_ends_before_its_leases_is_kept_alive_and_succeeded_in_time(approle, vault_server):
    """Over the life of a token of 2 s and at most 6 s: renewed, final, succeeded; its lease of an hour dies with it."""
    vault = approle(token_ttl="2s", token_max_ttl="6s")
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    runtime, changed = Runtime(), threading.Event()
    runtime.acquire()
    try:
        role.attach(runtime, changed.set)
        first = role.read(now()).lease
        assert role.owner(first).expires_at <= now() + 2
        while not role.owner(first).final:
            assert changed.wait(5)
            changed.clear()
        ends = role.owner(first).expires_at
        second = role.read(now()).lease
        assert now() < ends
        assert role.owner(second).expires_at > ends
        while first.lease_id in vault_server.leases():
            assert now() < ends + 5
            threading.Event().wait(0.1)
        assert now() > ends - 1.5
        assert vault_server.leases() == [second.lease_id]
        assert not role.owner(second).dead
    finally:
        role.detach(changed.set)
        runtime.release()
    deadline = now() + 5  # a revoked token's leases are revoked a moment later
    while vault_server.leases():
        assert now() < deadline
        threading.Event().wait(0.05)


# --- Refusals ----------------------------------------------------------------------------------------------


def test_an_unknown_role_is_named(approle, vault_server):
    """The error names the path of the role that is missing."""
    role = DynamicRole("nope", vault=approle(), mount_point=vault_server.mount)
    with pytest.raises(VaultRefused, match=f"there is no {vault_server.mount}/roles/nope") as caught:
        role.read(now())
    assert (caught.value.status, caught.value.retryable) == (400, False)


def test_a_role_that_the_connection_does_not_allow_is_told_as_such(approle, vault_server, database):
    """Vault answers 500; the error says which setting of the connection lacks the role."""
    vault = approle()
    vault_server.ask("POST", f"{vault_server.mount}/config/{database.name}", {"allowed_roles": ["other"]})
    with pytest.raises(VaultRefused, match="add 'app' to allowed_roles") as caught:
        DynamicRole("app", vault=vault, mount_point=vault_server.mount).read(now())
    assert (caught.value.status, caught.value.retryable) == (500, False)


def test_a_missing_policy_is_told_with_the_line_to_add(approle, vault_server):
    """A policy is not a dead token: the token is kept, and the error holds the missing rule."""
    vault = approle("default")
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    with pytest.raises(VaultDenied) as caught:
        role.read(now())
    assert not caught.value.token_dead
    assert f'path "{role.name}" {{ capabilities = ["read"] }}' in str(caught.value)
    assert alive(vault_server, token_of(vault))


@pytest.mark.parametrize("policies", [(), ("default",)])
def test_a_wrong_mount_point_is_told_as_such(given, vault_server, policies):
    """A path that nothing handles makes us ask for the mount point; a token without rights there hears of the rule."""
    everything = vault_server.policy('path "*" { capabilities = ["read", "update"] }')
    vault, _ = given(*(policies or (everything,)))
    with pytest.raises((VaultRefused, VaultDenied), match=r"mount_point|capabilities"):
        DynamicRole("app", vault=vault, mount_point="elsewhere").read(now())


def test_a_token_without_the_default_policy_is_told_from_a_dead_one(given, vault_server):
    """Where looking up is itself denied, a missing policy is still not taken for death."""
    vault, token = given(vault_server.policy('path "nothing" { capabilities = ["read"] }'), no_default_policy=True)
    with pytest.raises(VaultDenied) as caught:
        DynamicRole("app", vault=vault, mount_point=vault_server.mount).read(now())
    assert not caught.value.token_dead
    del token


def test_without_the_right_to_revoke_leases_end_by_a_short_renewal(approle, vault_server, database, caplog):
    """A policy without sys/leases/revoke costs one warning; the lease is ended by a renewal for one second."""
    reading = f'path "{vault_server.mount}/creds/*" {{ capabilities = ["read"] }}'
    vault = approle(vault_server.policy(reading), "default")
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    for _ in range(2):
        role.revoke(role.read(now()).lease)
    for lease_id in vault_server.leases():
        status, answer = vault_server.api("PUT", "sys/leases/lookup", {"lease_id": lease_id})
        assert status == 400 or answer["data"]["ttl"] <= 1
    assert sum('path "sys/leases/revoke"' in record.getMessage() for record in caplog.records) == 1


def test_renewing_beyond_max_ttl_is_refused_without_losing_the_credential(approle, vault_server, database):
    """Renewals are granted less and less; what cannot be renewed is not reported as lost."""
    vault = approle()
    vault_server.database_role(database, "app", default_ttl="3s", max_ttl="3s")
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    lease = role.read(now()).lease
    threading.Event().wait(1.1)
    shorter = role.renew(lease, now())
    assert 0 < shorter.duration < 3
    assert lease.truncated_by(shorter.duration)


def test_a_database_that_is_down_makes_a_renewal_fail_for_now(vault_server, database, tcp_proxy, approle):
    """Vault answers 400 to a renewal while the database is down; that is no lost lease."""
    vault = approle()
    proxy = tcp_proxy(database.server.host, database.server.port)
    vault_server.database_role(database, "behind", port=proxy.port)
    vault_server.ask("POST", f"{vault_server.mount}/roles/behind", {"db_name": database.name})
    role = DynamicRole("behind", vault=vault, mount_point=vault_server.mount)
    lease = role.read(now()).lease
    proxy.refuse()
    proxy.cut()
    with pytest.raises(VaultUnavailable) as caught:
        role.renew(lease, now())
    assert caught.value.retryable
    proxy.pass_through()
    role.revoke(role.renew(lease, now()))


# --- No answer ---------------------------------------------------------------------------------------------


def test_nobody_there_surely_created_nothing(vault_server, tcp_proxy):
    """A refused connection may be repeated at once, and was, a few times."""
    proxy = tcp_proxy("127.0.0.1", 1)
    proxy.refuse()
    vault = Vault(f"http://127.0.0.1:{proxy.port}", auth=Token("s.x"))
    with pytest.raises(VaultUnavailable, match="Connection refused") as caught:
        vault.request("GET", "sys/health", token=None)
    assert (caught.value.created_nothing, caught.value.retryable) == (True, True)


def test_a_lost_answer_may_have_created_something(approle, vault_server, tcp_proxy):
    """A read timeout is not repeated at once: each read makes a role."""
    proxy = tcp_proxy("127.0.0.1", int(vault_server.address.rpartition(":")[2]))
    vault = Vault(f"http://127.0.0.1:{proxy.port}", auth=Token(vault_server.root_token), timeout=0.3)
    vault.request("GET", "sys/health", token=None)
    proxy.deaf()
    accepted = proxy.accepted
    with pytest.raises(VaultUnavailable, match="may have been carried out") as caught:
        vault.request("GET", "sys/health", token=None)
    assert not caught.value.created_nothing
    assert proxy.accepted == accepted
    vault.close()


def test_a_redirect_is_not_followed():
    """A token is not carried to a host that nobody configured; the error names it."""
    from tests.unit.vault.fake_http import serve

    with serve(lambda _: (307, {"Location": "https://user:pw@other.example:8200/v1/x"}, "")) as fake:
        vault = Vault(fake.address, auth=Token("s.x"))
        with pytest.raises(VaultUnavailable, match=r"other\.example:8200") as caught:
            vault.request("GET", "sys/health", token=None)
        assert "pw" not in str(caught.value)
        vault.close()


def test_settings_come_from_the_environment(vault_server, database, monkeypatch):
    """VAULT_ADDR and AppRole's variables are enough; BAO_ goes first."""
    vault_server.database_role(database)
    login = vault_server.approle()
    monkeypatch.setenv("VAULT_ADDR", "http://wrong.invalid")
    monkeypatch.setenv("BAO_ADDR", vault_server.address)
    monkeypatch.setenv("VAULT_ROLE_ID", login.role_id)
    monkeypatch.setenv("VAULT_SECRET_ID", login.secret_id)
    vault = Vault.from_env(AppRole.from_env(mount_point=login.mount_point))
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    role.revoke(role.read(now()).lease)
    vault.close()


def test_a_rewritten_secret_id_file_is_used_at_the_next_login(vault_server, database, tmp_path):
    """The file is read at each login; a new secret_id is tried at once, after the old one was refused."""
    vault_server.database_role(database)
    login = vault_server.approle()
    file = tmp_path / "secret_id"
    file.write_text("00000000-0000-0000-0000-000000000000\n")
    auth = AppRole(login.role_id, secret_id_file=file, mount_point=login.mount_point)
    vault = Vault(vault_server.address, auth=auth)
    leap = 0.0
    vault._clock = lambda: now() + leap
    role = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
    with pytest.raises(VaultDenied) as caught:
        role.read(now())
    assert 10 < caught.value.retry_after <= 15
    file.write_text(login.secret_id + "\n")
    with pytest.raises(VaultDenied):
        role.read(now())
    leap = 31.0  # the slowest pace at which a login is tried again
    role.revoke(role.read(now()).lease)
    vault.close()


@pytest.mark.parametrize("role", ["", "a/b", "../x", "a b", "a?b", None])
def test_a_role_that_cannot_be_is_refused(role):
    """Names that Vault could not have are configuration errors."""
    with pytest.raises(ConfigurationError, match="role"):
        DynamicRole(role, vault=Vault("http://127.0.0.1:1", auth=Token("s.x")))
