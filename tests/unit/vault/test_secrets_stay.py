"""
No error that leaves the client carries a secret, in any place where an error reporter looks.
"""

from __future__ import annotations

import copy
import logging
import pickle
import re
import traceback

import pytest

from tests.unit.vault.fake_http import serve
from vault_pool import VaultPool
from vault_pool.errors import ConfigurationError, VaultPoolError
from vault_pool.sources.dynamic_role import DynamicRole
from vault_pool.vault.auth import JWT, LDAP, AppRole, CustomLogin, Token, UserPass
from vault_pool.vault.client import Vault
from vault_pool.vault.secret import Secret, censored

SECRETS = (
    "hvs.T0kenOfTheTest",
    "R0le-Id-Of-The-Test",
    "S3cret-Id-Of-The-Test",
    "Passw0rd-Of-The-Test",
    "Pr0xyPassword",
)
LIBRARY = re.compile(r"/(hvac|requests|urllib3)/")


def configured(**settings):
    """A pool by settings."""
    return VaultPool.from_config({"role": "app", "vault_address": "https://vault.example", **settings})


def shown(value, depth=0):
    """What an error reporter shows of a value: containers are walked, anything else is asked for its repr."""
    if isinstance(value, dict) and depth < 6:
        return " ".join(shown(key, depth + 1) + shown(item, depth + 1) for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)) and depth < 6:
        return " ".join(shown(item, depth + 1) for item in value)
    return repr(value)


def assert_clean(error):
    """Walk the error, its attributes, every frame of its traceback, and all errors behind it, as Sentry does."""
    todo, seen = [error], set()
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        text = str(each) + shown(vars(each)) + shown(each.args)
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if frame.f_code.co_filename == __file__:
                continue  # the test itself knows the secrets
            assert not LIBRARY.search(frame.f_code.co_filename)
            text += " ".join(f"{name}={shown(value)}" for name, value in frame.f_locals.items())
        assert not [secret for secret in SECRETS if secret in text]
        todo += [each.__cause__, each.__context__]
    assert error.__cause__ is None


LOGGED_IN = (200, {}, {"auth": {"client_token": SECRETS[0], "lease_duration": 60, "renewable": True, "num_uses": 0}})


def leaky(status, headers, body):
    """A Vault whose login works, and whose every other answer repeats all secrets."""
    return lambda request: LOGGED_IN if "/login" in request.path else (status, headers, body)


LEAK = " ".join(SECRETS[:3])
ANSWERS = {
    "500": leaky(500, {}, {"errors": [LEAK.replace(SECRETS[1], "").replace(SECRETS[2], "")]}),
    "400": leaky(400, {}, {"errors": [SECRETS[0]]}),
    "403": leaky(403, {}, {"errors": ["permission denied"]}),
    "html": leaky(502, {}, f"<html>{LEAK}</html>"),
    "not json": leaky(200, {}, f"{{{LEAK}"),
    "redirect": leaky(307, {"Location": f"https://x:{SECRETS[4]}@other.example/"}, ""),
    "no lease": leaky(200, {}, {"lease_id": "", "data": {"username": "u", "password": SECRETS[3]}}),
    "no password": leaky(200, {}, {"lease_id": "x", "lease_duration": 60, "data": {"rsa_private_key": SECRETS[3]}}),
    "odd numbers": leaky(200, {}, {"lease_id": "x", "lease_duration": SECRETS[3], "data": {"password": SECRETS[3]}}),
    "cut": lambda request: LOGGED_IN if request.path.endswith("login") else None,
    "cut login": lambda request: None,
    "login repeats": lambda request: (400, {}, {"errors": [f"invalid {' '.join(request.body.values())}"]}),
    "login without token": lambda request: (200, {}, {"auth": {"token": SECRETS[0]}}),
    "login odd": lambda request: (
        200,
        {},
        {"auth": {"client_token": SECRETS[0], "lease_duration": "x", "num_uses": 1}},
    ),
}


LOGINS = {
    "approle": lambda: AppRole(SECRETS[1], SECRETS[2]),
    "wrapped": lambda: AppRole(SECRETS[1], wrapping_token=SECRETS[2]),
    "userpass": lambda: UserPass("me", SECRETS[2]),
    "jwt": lambda: JWT("role", SECRETS[2]),
    "custom": lambda: CustomLogin(lambda client: client.login("auth/x/login", {"password": SECRETS[2]})),
}


@pytest.mark.parametrize(
    ("name", "login"),
    [
        *((name, "approle") for name in ANSWERS),
        *((name, login) for name in ("400", "cut login", "login repeats", "login odd") for login in LOGINS),
    ],
)
def test_no_failure_shows_a_secret(name, login, caplog):
    """Whatever Vault answers, neither the error nor a log line shows a token, a secret_id or a password."""
    caplog.set_level(logging.DEBUG)
    with serve(ANSWERS[name]) as fake:
        vault = Vault(fake.address, auth=LOGINS[login](), timeout=1)
        with pytest.raises(VaultPoolError) as caught:
            DynamicRole("app", vault=vault).read(0.0)
        assert_clean(caught.value)
        assert caught.value.__context__ is None or isinstance(caught.value.__context__, VaultPoolError)
        vault.close()
    assert not [secret for secret in SECRETS if secret in caplog.text]


def test_an_unreachable_vault_shows_no_secret():
    """Neither does a connection that is refused, for a login and for a given token."""
    for auth in (AppRole(SECRETS[1], SECRETS[2]), Token(SECRETS[0])):
        with pytest.raises(VaultPoolError) as caught:
            DynamicRole("app", vault=Vault("http://127.0.0.1:1", auth=auth, timeout=1)).read(0.0)
        assert_clean(caught.value)


def test_an_interruption_passes_without_the_frames_that_hold_secrets(monkeypatch):
    """KeyboardInterrupt in mid-request leaves the frames of requests behind."""
    import requests

    def interrupted(self, method, url, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(requests.Session, "request", interrupted)
    vault = Vault("http://127.0.0.1:1", auth=Token(SECRETS[0]))
    with pytest.raises(KeyboardInterrupt) as caught:
        DynamicRole("app", vault=vault).read(0.0)
    assert_clean(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Token(SECRETS[0] + "\n"),
        lambda: AppRole(SECRETS[1] + "\x00", SECRETS[2]),
        lambda: AppRole(SECRETS[1], " " + SECRETS[2]),
        lambda: AppRole(SECRETS[1], SECRETS[2], secret_id_file="x"),
        lambda: Vault(f"https://me:{SECRETS[4]}@vault.example", auth=Token("s.x")),
        lambda: Vault("nonsense", auth=Token("s.x"), proxy=f"http://me:{SECRETS[4]}@proxy"),
        lambda: Vault("https://vault.example", auth=Token("s.x"), proxy=f"ftp://me:{SECRETS[4]}@proxy"),
        lambda: Vault("https://vault.example", auth=Token("s.x"), proxy=f"http://me:{SECRETS[4]}@proxy", timeout=-1),
        lambda: AppRole(SECRETS[1], wrapping_token=SECRETS[0] + "\n"),
        lambda: AppRole(SECRETS[1], SECRETS[2], wrapping_token=SECRETS[0]),
        lambda: UserPass("", SECRETS[3]),
        lambda: LDAP("me", SECRETS[3], mount_point="?"),
        lambda: JWT(5, SECRETS[0]),
        lambda: JWT("role", SECRETS[0], token_file="x"),
        lambda: configured(auth="userpass", auth_username="me", auth_password=SECRETS[3], auth_mount_point="?"),
        lambda: configured(auth="userpass", auth_user="me", auth_password=SECRETS[3]),
    ],
)
def test_wrong_settings_are_told_without_their_values(make):
    """A ConfigurationError names the setting, not what it was set to; nor do the frames of the constructors."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert_clean(caught.value)


def test_reprs_show_nothing():
    """The objects that hold secrets do not print them, nor are they pickled."""
    auth = AppRole(SECRETS[1], SECRETS[2])
    vault = Vault("https://vault.example", auth=auth)
    text = f"{auth!r} {vault!r} {Token(SECRETS[0])!r} {DynamicRole('app', vault=vault)!r} {vars(auth)} {vars(vault)}"
    assert not [secret for secret in SECRETS if secret in text]
    for login in (*(make() for make in LOGINS.values()), LDAP("u", SECRETS[3])):
        text = f"{login!r} {shown(vars(login))}"
        assert not [secret for secret in SECRETS if secret in text]
    with pytest.raises(TypeError):
        pickle.dumps(Secret(SECRETS[0]))
    assert copy.copy(Secret("x")) == Secret("x")
    assert censored("a b", Secret("b"), Secret(""), "a") == "a <secret>"
