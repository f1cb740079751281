"""
Sources without leases: what they take from Vault, a file or a function, and when they look again.
"""

from __future__ import annotations

import json
import os

import pytest

from tests.unit.vault.fake_http import serve
from vault_pool import KV, AgentFile, Callback, ConfigurationError, Credential, Fixed, StaticRole, Token, Vault
from vault_pool.errors import LeaseLost, SourceError, VaultRefused
from vault_pool.vault import notices

PASSWORD = "not-so-secret-password-1"


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """Nothing was warned of yet."""
    monkeypatch.setattr(notices, "_said", set())


@pytest.fixture
def asked():
    """Return a function that makes a source of a Vault which answers what the list `answers` has at its front."""
    answers = []

    def reply(request):
        if request.path == "auth/token/lookup-self":
            return answer({"ttl": 0, "expire_time": None, "renewable": False, "type": "service"})
        paths.append(request.path)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    paths = []
    with serve(reply) as fake:

        def asked(source, *args, **settings):
            return source(*args, vault=Vault(fake.address, auth=Token("some-token")), **settings)

        asked.answers, asked.paths = answers, paths
        yield asked


def answer(data, status=200, **more):
    """An answer of Vault's with *data*."""
    return status, {}, {"lease_id": "", "lease_duration": 0, "renewable": False, "data": data, **more}


def static(*, password="p", ttl=10, rotated="2026-01-01T00:00:00Z", **more):
    """The answer to a read of a static role."""
    period = more or {"rotation_period": 10}
    data = {"username": "u", "password": password, "ttl": ttl, "last_vault_rotation": rotated, **period}
    return answer({name: value for name, value in data.items() if value is not None})


def again(issued):
    """When to look again: the earliest and the latest moment, in seconds."""
    lease = issued.lease
    assert lease.polled
    return lease.duration, lease.duration + lease.spread


# --- Static roles ------------------------------------------------------------------------------------------


def test_a_static_role_is_read_after_its_rotation(asked):
    """Vault rotates up to some seconds after the ttl has ended, not before."""
    asked.answers += [static(ttl=10)]
    source = asked(StaticRole, "app", mount_point="db/")

    issued = source.read(100.0)

    assert issued.credential == Credential("u", "p")
    assert again(issued) == (11.0, 16.0)
    assert asked.paths[0] == "db/static-creds/app"


def test_a_ttl_of_zero_is_looked_at_again_soon(asked):
    """The password is about to be rotated, or has been."""
    asked.answers += [static(ttl=0)]
    assert again(asked(StaticRole, "app").read(100.0)) == (1.0, 6.0)


#: What servers of different ages answer beside username, password and ttl. Those from 1.15 on are imitated.
ANSWERS = {
    "OpenBao 2.5, Vault 1.14": {"rotation_period": 10},
    "Vault 1.15 and newer, by a schedule": {"rotation_schedule": "0 * * * *", "rotation_window": 3600},
    "Vault 1.18 and newer, not rotated yet": {"rotation_period": 10, "last_vault_rotation": None},
}


@pytest.mark.parametrize("more", ANSWERS.values(), ids=ANSWERS)
def test_a_ttl_that_jumped_is_not_believed(asked, more):
    """Until last_vault_rotation moves, the role is read at growing pauses, however long the ttl of the next period."""
    asked.answers += [static(ttl=10, **more), *[static(ttl=3600, **more)] * 7, static(ttl=3500, rotated="later")]
    source = asked(StaticRole, "app")
    source.read(100.0)

    pauses = [again(source.read(115.0 + look)) for look in range(7)]

    assert pauses == [(1, 2), (2, 4), (4, 8), (8, 16), (15, 30), (15, 30), (15, 30)]
    assert again(source.read(150.0)) == (3501.0, 3506.0)


def test_a_rotation_may_be_late_for_days(asked):
    """As long as Vault cannot reach the database, the role is read at the longest pause; no number is too large."""
    source = asked(StaticRole, "app")
    # Without the requests, of which a process makes no more than so many a second.
    pauses = [source._pause(look, changed=False, rotated="once", period=10, ttl=0.0) for look in range(1100)]

    assert pauses[-1] == (15, 15)


def test_a_read_before_the_end_of_the_period_is_believed(asked):
    """The same rotation, and less of its period left."""
    asked.answers += [static(ttl=10), static(ttl=4)]
    source = asked(StaticRole, "app")
    source.read(100.0)
    assert again(source.read(106.0)) == (5.0, 10.0)


def test_a_period_that_was_changed_is_believed(asked):
    """An administrator may make it longer; that rotates nothing."""
    asked.answers += [static(ttl=10), static(ttl=90, rotation_period=100)]
    source = asked(StaticRole, "app")
    source.read(100.0)
    assert again(source.read(120.0)) == (91.0, 96.0)


def test_another_password_is_a_rotation_whatever_the_rest_says(asked):
    """Where Vault tells no last_vault_rotation, say."""
    asked.answers += [static(rotated=None), static(rotated=None), static(rotated=None, password="q")]
    source = asked(StaticRole, "app")
    pauses = [again(source.read(now)) for now in (100.0, 112.0, 114.0)]
    assert pauses == [(11.0, 16.0), (1.0, 2.0), (11.0, 16.0)]


@pytest.mark.parametrize("data", [{}, {"username": "u"}, {"username": "u", "rsa_private_key": "k"}, None])
def test_a_static_role_without_a_password_is_refused(asked, data):
    """The error names what kind of role it has to be."""
    asked.answers += [answer(data)]
    with pytest.raises(VaultRefused, match="credential_type=password"):
        asked(StaticRole, "app").read(0.0)


# --- KV ----------------------------------------------------------------------------------------------------


def test_a_secret_of_version_2(asked):
    """Its fields have the names that the settings say; it is looked at about every interval."""
    asked.answers += [answer({"data": {"user": "u", "pass": "p"}, "metadata": {"version": 3}})]
    source = asked(KV, "/apps/shop/", mount_point="kv", user_field="user", password_field="pass", interval=100)

    issued = source.read(0.0)

    assert issued.credential == Credential("u", "p")
    assert again(issued) == pytest.approx((90.0, 110.0))
    assert asked.paths[0] == "kv/data/apps/shop"


def test_a_secret_of_version_1_has_no_lease(asked):
    """Its lease_duration is the mount's, and means nothing."""
    asked.answers += [answer({"username": "u", "password": "p"}, lease_duration=2764800)]
    issued = asked(KV, "shop", version=1).read(0.0)
    assert again(issued) == pytest.approx((54.0, 66.0))
    assert asked.paths[0] == "secret/shop"


def test_a_change_has_another_name(asked):
    """The name of a version tells it from the one before, and nothing of its content."""
    written = [answer({"username": "u", "password": word}) for word in (PASSWORD, PASSWORD, "another-password-2")]
    asked.answers += written
    source = asked(KV, "shop", version=1)
    assert [source.read(0.0).lease.lease_id for _ in range(3)] == ["secret/shop#1", "secret/shop#1", "secret/shop#2"]


@pytest.mark.parametrize(
    ("version", "given", "words"),
    [
        (2, answer({"data": None, "metadata": {"version": 3, "destroyed": False}}, 404), "version 3 .* was deleted"),
        (2, answer({"data": None, "metadata": {"version": 3, "destroyed": True}}, 404), "version 3 .* was destroyed"),
        (2, (404, {}, {"errors": []}), "version=1"),
        (1, (404, {}, {"errors": []}), "check path and mount_point"),
        (1, answer(None, 404, warnings=["Invalid path for a versioned K/V secrets engine."]), "version=2"),
        (2, answer({"username": "u", "password": "p"}), "version=1"),
        (2, answer({"data": {"username": "u"}, "metadata": {}}), "'password'.*user_field and password_field"),
        (1, answer({"username": "u", "password": 5}), "user_field and password_field"),
        (1, answer({"username": "", "password": PASSWORD}), "user_field and password_field"),
        (1, (403, {}, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}), "capabilit"),
    ],
)
def test_a_secret_without_the_credential_is_explained(asked, version, given, words):
    """The error says what is wrong, and which setting to look at."""
    asked.answers += [given]
    with pytest.raises(Exception, match=words) as caught:
        asked(KV, "shop", version=version).read(0.0)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "version", "given", "words"),
    [
        ("data/shop", 2, (404, {}, {"errors": []}), "leave data/ out of path"),
        ("secret/shop", 2, (404, {}, {"errors": []}), "leave secret/ out of path"),
        ("secret/shop", 1, (404, {}, {"errors": []}), "leave secret/ out of path"),
        ("data/shop", 1, answer({"data": {"username": "u", "password": "p"}, "metadata": {}}), "version=2.*data/ out"),
    ],
)
def test_a_path_with_too_much_in_it_is_explained(asked, path, version, given, words):
    """Policies and the HTTP API have data/ and the mount point in it; the setting has neither."""
    asked.answers += [given]
    with pytest.raises(VaultRefused, match=words):
        asked(KV, path, version=version).read(0.0)


# --- Files -------------------------------------------------------------------------------------------------


def write(path, words, mode=0o600):
    """Replace the file *path* as Vault Agent does: by another that takes its name."""
    fresh = path.with_name("fresh")
    fresh.write_text(words)
    fresh.chmod(mode)
    fresh.replace(path)


def as_json(user, password):
    """What a template of Vault Agent makes."""
    return json.dumps({"username": user, "password": password})


def test_a_file_that_is_replaced_is_taken(tmp_path):
    """By its content; the same content in another file is no change."""
    path = tmp_path / "db.json"
    source = AgentFile(path)
    versions = []
    for user in ("a", "a", "b"):
        write(path, as_json(user, "p"))
        issued = source.read(0.0)
        assert issued.credential == Credential(user, "p")
        versions.append(issued.lease.lease_id.rpartition("#")[2])
    assert versions == ["1", "1", "2"]
    assert again(issued) == (1.0, 1.0)


def test_a_file_that_stays_is_not_read(tmp_path, monkeypatch):
    """From the third look on: two writes within a tick of the file system's clock look alike."""
    path = tmp_path / "db.json"
    write(path, as_json("a", "p"))
    source = AgentFile(path)
    issued = [source.read(0.0), source.read(1.0)]
    monkeypatch.setattr(type(path), "open", None)
    assert source.read(2.0).credential == issued[0].credential == issued[1].credential


def test_two_writes_that_look_alike_are_told_apart(tmp_path):
    """Same inode, same size, same mtime: the content is compared while the file is fresh."""
    path = tmp_path / "db.json"
    write(path, as_json("a", "p"))
    os.utime(path, ns=(10**18, 10**18))
    source = AgentFile(path)
    source.read(0.0)
    with path.open("r+") as file:
        file.write(as_json("b", "p"))
    os.utime(path, ns=(10**18, 10**18))
    assert source.read(1.0).credential.user == "b"


def test_a_link_that_moves_is_followed(tmp_path):
    """Kubernetes swaps the folder that a mounted secret lies in."""
    for name, user in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "db.json").write_text(as_json(user, "p"))
    link = tmp_path / "data"
    link.symlink_to("one")
    source = AgentFile(link / "db.json")
    assert [source.read(0.0).credential.user, source.read(1.0).credential.user] == ["a", "a"]
    (tmp_path / "fresh").symlink_to("two")
    (tmp_path / "fresh").replace(link)
    assert source.read(2.0).credential.user == "b"


@pytest.mark.parametrize(
    "words", ["", '{"username": "a", "pass', f'{{"password": "{PASSWORD}"}}', "[1]", '{"username": 1, "password": "p"}']
)
def test_half_a_file_is_an_error_until_it_is_whole(tmp_path, words):
    """The error names the file and the settings, and nothing of the content."""
    path = tmp_path / "db.json"
    source = AgentFile(path)
    path.write_text(words)
    with pytest.raises(SourceError, match=r"db\.json.*password_field") as caught:
        source.read(0.0)
    assert PASSWORD not in str(caught.value)
    write(path, as_json("a", "p"))
    assert source.read(1.0).credential.user == "a"


def test_a_file_that_is_missing_is_an_error_until_it_is_there(tmp_path):
    """Vault Agent may come later than the application."""
    source = AgentFile(tmp_path / "db.json")
    with pytest.raises(SourceError, match="No such file"):
        source.read(0.0)
    write(tmp_path / "db.json", as_json("a", "p"))
    assert source.read(1.0).credential.user == "a"


def test_a_file_for_everybody_is_warned_of_once(tmp_path, caplog):
    """With the remedy."""
    path = tmp_path / "db.json"
    write(path, as_json("a", "p"), mode=0o644)
    source = AgentFile(path)
    source.read(0.0)
    source.read(1.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "chmod 600" in caplog.text


def test_what_cannot_be_read_is_an_error(tmp_path):
    """A folder, and a pipe that nobody writes to: it is not waited for."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(SourceError, match="Is a directory"):
        AgentFile(tmp_path / "folder.json").read(0.0)
    with pytest.raises(SourceError, match="not, or not yet"):
        AgentFile(tmp_path / "pipe.json").read(0.0)


def test_a_file_that_is_not_ours_to_read_is_an_error(tmp_path):
    """The credential that is known is not in it, nor is anything else."""
    path = tmp_path / "db.json"
    source = AgentFile(path)
    write(path, as_json("a", PASSWORD), mode=0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read anything
    try:
        with pytest.raises(SourceError, match="Permission denied") as caught:
            source.read(0.0)
    finally:
        os.seteuid(user)
    assert caught.value.longest_pause == 1.0
    assert PASSWORD not in repr(caught.value)


@pytest.mark.parametrize(
    ("words", "password"),
    [
        ("username=u\npassword=p\n", "p"),
        ("# the database\n\nexport username = u\nexport password='p # q'  # mine\n", "p # q"),
        ('username="u"\npassword="p\\"q\\\\"', 'p"q\\'),
        ("username=u # me\npassword=p#q", "p#q"),
    ],
)
def test_a_dotenv_file(tmp_path, words, password):
    """Comments, export, quotes and spaces."""
    path = tmp_path / "db.env"
    path.write_text(words)
    assert AgentFile(path).read(0.0).credential == Credential("u", password)


@pytest.mark.parametrize("words", ["username=u\npassword='p", "username=u\npassw", 'username=u\npassword="p" q'])
def test_half_a_dotenv_file_is_an_error(tmp_path, words):
    """A line that is no assignment may be half of one."""
    (tmp_path / ".env").write_text(words)
    with pytest.raises(SourceError, match="dotenv"):
        AgentFile(tmp_path / ".env").read(0.0)


# --- Functions and fixed users -----------------------------------------------------------------------------


def test_a_function_of_the_application():
    """It returns a pair or a Credential, and is called about every interval."""
    found = iter([("u", "p"), Credential("u", "q")])
    source = Callback(lambda: next(found), interval=10, name="our own")
    assert again(source.read(0.0)) == pytest.approx((9.0, 11.0))
    assert source.read(0.0).credential == Credential("u", "q")
    assert source.name == "our own"


def test_a_function_may_say_for_how_long():
    """The tokens of a cloud are good for minutes: there is another before they end."""
    source = Callback(lambda: ("u", "p", 900), interval=10)
    assert again(source.read(0.0)) == pytest.approx((486.0, 594.0))


def test_what_a_function_raises_is_told_by_its_type():
    """Its text may hold a secret."""

    def broken():
        raise RuntimeError(PASSWORD)

    source = Callback(broken)
    with pytest.raises(SourceError, match="broken raised RuntimeError") as caught:
        source.read(0.0)
    assert caught.value.__context__ is None
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "found",
    [None, ("u",), ("u", None), "up", ("u", ""), Credential("", "p"), ("u", "p", 0), ("u", "p", "1h"), (1, 2, 3, 4)],
)
def test_what_a_function_returns_has_to_be_a_credential(found):
    """The error names the type only."""
    with pytest.raises(SourceError, match="returned"):
        Callback(lambda: found).read(0.0)


def test_a_fixed_user_is_never_looked_at_again(monkeypatch):
    """From settings, or from the variables of libpq."""
    monkeypatch.setenv("PGUSER", "u")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    for source in (Fixed("u", PASSWORD), Fixed.from_env()):
        assert source.read(0.0).lease.duration == float("inf")
        assert source.read(0.0).credential == Credential("u", PASSWORD)
        assert PASSWORD not in repr(source) + str(source.name)


def test_a_fixed_user_without_a_password_is_refused(monkeypatch):
    """The error names the variable."""
    monkeypatch.setenv("PGUSER", "u")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with pytest.raises(ConfigurationError, match="PGPASSWORD"):
        Fixed.from_env()


# --- All of them -------------------------------------------------------------------------------------------

VAULT = Vault("https://vault", auth=Token("some-token"))


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: StaticRole("", vault=VAULT), "role"),
        (lambda: StaticRole("a/b", vault=VAULT), "role"),
        (lambda: StaticRole("app", vault=None), "vault"),
        (lambda: StaticRole("app", vault=VAULT, mount_point="../x"), "mount_point"),
        (lambda: KV("", vault=VAULT), "path"),
        (lambda: KV("a?b", vault=VAULT), "path"),
        (lambda: KV("../b", vault=VAULT), "path"),
        (lambda: KV("a", vault=VAULT, version=3), "version"),
        (lambda: KV("a", vault=VAULT, version=True), "version"),
        (lambda: KV("a", vault=VAULT, user_field=""), "user_field"),
        (lambda: KV("a", vault=VAULT, password_field=None), "password_field"),
        (lambda: KV("a", vault=VAULT, interval=0.5), "interval"),
        (lambda: AgentFile(""), "path"),
        (lambda: AgentFile(None), "path"),
        (lambda: AgentFile("a\0.json"), "path"),
        (lambda: AgentFile("db.txt"), "format"),
        (lambda: AgentFile("db.json", format="yaml"), "format"),
        (lambda: AgentFile("db.json", interval=0), "interval"),
        (lambda: AgentFile("db.json", interval=True), "interval"),
        (lambda: Callback("no function"), "read"),
        (lambda: Callback(lambda: None, interval=float("inf")), "interval"),
        (lambda: Callback(lambda: None, name=""), "name"),
        (lambda: AgentFile("db.json", interval=0.1), "interval"),
        (lambda: KV("a", vault="https://vault"), "vault"),
        (lambda: KV("a", vault=VAULT, mount_point=""), "mount_point"),
        (lambda: KV(None, vault=VAULT), "path"),
        (lambda: Fixed("", "p"), "user"),
        (lambda: Fixed("u", ""), "password"),
        (lambda: Fixed("u", None), "password"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(make, setting):
    """At construction, and by its name."""
    with pytest.raises(ConfigurationError, match=setting):
        make()


def test_there_is_nothing_to_renew():
    """Nor to revoke, and no token that it would die with."""
    source = Fixed("u", "p")
    lease = source.read(0.0).lease
    with pytest.raises(LeaseLost):
        source.renew(lease, 1.0)
    source.revoke(lease)
    assert source.owner(lease).expires_at == float("inf")
