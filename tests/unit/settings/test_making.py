"""
Pools made by from_config and from_env, and what they say of bad settings.
"""

from __future__ import annotations

import json
import sys

import psycopg
import pytest

from tests.fix_secrecy import reported
from vault_pool import AppRole, ConfigurationError, DynamicRole, Token, Vault, VaultPool

SECRET = "hvs.a-token-that-must-not-be-seen"
GOOD = {"conninfo": "dbname=shop", "role": "shop", "vault_address": "https://vault:8200", "auth": "token"}
GOOD["auth_token"] = SECRET


def refused(settings, prefix=""):
    """Return the text of the error that *settings* get."""
    with pytest.raises(ConfigurationError) as caught:
        VaultPool.from_config(settings, prefix)
    assert SECRET not in reported(caught.value)
    assert caught.value.__context__ is None
    return str(caught.value)


def test_a_mapping_makes_a_pool():
    """Settings go to the constructors that have them."""
    pool = VaultPool.from_config({**GOOD, "min_size": 1, "max_size": "3", "timeout": "1m30s", "policy_burst": 5})

    assert (pool.conninfo, pool.min_size, pool.max_size, pool.timeout) == ("dbname=shop", 1, 3, 90.0)
    assert pool._source.name == "database/creds/shop"
    assert pool._policy.burst == 5
    assert pool._policy.retire_timeout == 30.0


def test_keys_are_in_any_case_and_may_have_a_prefix():
    """Flask and Django write capitals, TOML does not; with a prefix, other keys are none of ours."""
    capitals = {f"SHOP_{name.upper()}": value for name, value in GOOD.items()}
    pool = VaultPool.from_config({**capitals, "DEBUG": True, "shop_role": "not ours"}, "SHOP_")

    assert pool._source.name == "database/creds/shop"


def test_settings_made_of_json_or_toml_make_a_pool():
    """All but objects made in code survives a file."""
    assert VaultPool.from_config(json.loads(json.dumps(GOOD))).conninfo == "dbname=shop"


def test_the_environment_makes_a_pool(monkeypatch):
    """VAULT_POOL_ and the name in capitals; what is empty counts as not given, what is not ours is left alone."""
    for name, value in {**GOOD, "max_size": "7", "name": "", "lookup_interval": "none"}.items():
        monkeypatch.setenv(f"VAULT_POOL_{name.upper()}", value)
    monkeypatch.setenv("VAULT_POOL_REPLICA_MAX_SIZE", "9")
    pool = VaultPool.from_env()

    assert pool.max_size == 7
    assert pool._lookup_interval == float("inf")


def test_vaults_own_variables_say_what_settings_do_not(monkeypatch):
    """Three settings are enough where VAULT_ADDR and a login are in the environment; a setting goes before them."""
    monkeypatch.setenv("VAULT_ADDR", "https://own.example.com")
    monkeypatch.setenv("VAULT_TOKEN", SECRET)
    own = VaultPool.from_config({"conninfo": "dbname=shop", "role": "shop"})
    other = VaultPool.from_config({"conninfo": "dbname=shop", "role": "shop", "vault_address": "https://vault:8200"})
    monkeypatch.setenv("VAULT_ROLE_ID", "role")
    monkeypatch.setenv("VAULT_SECRET_ID", "secret")
    approle = VaultPool.from_config({"role": "shop", "auth": "approle"})

    assert own._source._vault.address == "https://own.example.com"
    assert other._source._vault.address == "https://vault:8200"
    assert isinstance(other._source._vault._auth, Token)
    assert isinstance(approle._source._vault._auth, AppRole)


def test_objects_made_in_code_are_settings_too():
    """A source, a Vault, a login and callables may be given as they are; callables by their name as well."""
    vault = Vault("https://vault:8200", auth=Token(SECRET))
    source = DynamicRole("shop", vault=vault)
    seen = []

    assert VaultPool.from_config({"source": source})._source is source
    assert VaultPool.from_config({"role": "shop", "vault": vault})._source._vault is vault
    given = {**GOOD, "auth": Token(SECRET), "auth_token": None, "on_event": seen.append, "configure": "builtins:print"}
    pool = VaultPool.from_config(given, connection_class=psycopg.Connection)
    assert pool._blueprint.options["configure"] is print


def test_a_laptop_needs_no_vault(monkeypatch):
    """source="fixed" and a user are laid over the settings of production, which are left unused; so is PGUSER."""
    monkeypatch.setenv("PGUSER", "me")
    monkeypatch.setenv("PGPASSWORD", SECRET)
    given = VaultPool.from_config({**GOOD, "source": "fixed", "user": "you", "password": SECRET})

    assert given._source.name == "the fixed user 'you'"
    assert VaultPool.from_config({**GOOD, "source": "fixed"})._source.name == "the fixed user 'me'"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"source": "static_role"}, "database/static-creds/shop"),
        ({"source": "kv", "role": None, "path": "shop/db", "version": "1"}, "secret/shop/db"),
        ({"source": "agent_file", "role": None, "path": "/run/db.json", "interval": "5s"}, "/run/db.json"),
    ],
)
def test_each_source_is_a_setting(settings, name):
    """The source is chosen by its name, and takes the settings that it has."""
    vaults = {} if settings["source"] == "agent_file" else {k: v for k, v in GOOD.items() if k != "role"}
    merged = {**vaults, "role": "shop", **settings}

    assert VaultPool.from_config(merged)._source.name == name


def test_pools_with_the_same_settings_share_a_lease(monkeypatch):
    """One Vault for the same settings of Vault, one source where the source's are the same as well."""
    first = VaultPool.from_config({**GOOD, "name": "primary"})
    replica = VaultPool.from_config({**GOOD, "conninfo": "host=replica dbname=shop"})
    other_role = VaultPool.from_config({**GOOD, "role": "reports"})
    other_token = VaultPool.from_config({**GOOD, "auth_token": SECRET + "2"})
    monkeypatch.setenv("VAULT_NAMESPACE", "another world")
    later = VaultPool.from_config(GOOD)

    assert first._source is replica._source
    assert other_role._source is not first._source
    assert other_role._source._vault is first._source._vault
    assert len({id(pool._source._vault) for pool in (first, other_token, later)}) == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"maxsize": 1}, "maxsize is no setting: did you mean max_size?"),
        ({"role_id": "x"}, "role_id is no setting: did you mean auth_role_id?"),
        ({"address": "x"}, "address is no setting: did you mean vault_address?"),
        ({"database_url": "x"}, "database_url is no setting: did you mean conninfo?"),
        ({"colour": "x"}, "colour is no setting: `python -m vault_pool.settings` lists them"),
        ({"ROLE": "x"}, "role and ROLE are the same setting: remove one of them"),
        ({7: "x"}, "the names of settings are texts, not int"),
        ({"min_size": "many"}, "min_size must be a whole number"),
        ({"min_size": True}, "min_size must be a whole number, not True"),
        (
            {"min_size": 9, "max_size": 2},
            "max_size must be at least 1 and at least min_size (9), not 2: raise max_size",
        ),
        ({"timeout": "soon"}, 'timeout must be a duration, as 90 or "90s" or "1m30s"'),
        ({"timeout": "1m30"}, 'timeout must be a duration, as 90 or "90s" or "1m30s"'),
        ({"timeout": -1}, "timeout must be a positive number of seconds, not -1.0"),
        ({"overlap": 0}, "overlap must be at least 1, not 0: a swap needs room for one login"),
        ({"close_returns": "perhaps"}, "close_returns must be true or false"),
        (
            {"source": "oracle"},
            "source must be one of dynamic_role, static_role, kv, agent_file, fixed, or a source made",
        ),
        ({"path": "x"}, "path is a setting of source=kv or agent_file, and not of dynamic_role"),
        ({"user": "x"}, "user is a setting of source=fixed, and not of dynamic_role"),
        (
            {"source": "agent_file", "role": "x", "path": "/x.json"},
            "role is a setting of source=dynamic_role or static",
        ),
        ({"role": None}, "role: missing, source='dynamic_role' needs it"),
        ({"role": "a b"}, "role must be the name of a role of Vault's database engine, not 'a b'"),
        (
            {"vault_address": {"url": "x"}},
            "vault_address must be a URL, or several by commas, not a mapping: settings are",
        ),
        ({"vault": {"address": "x"}}, "vault must be a Vault made in code, or none, not a mapping: settings are flat"),
        ({"vault_address": None, "vault_timeout": 1}, "vault_address is missing: with any setting of Vault's"),
        ({"vault_address": "ftp://x"}, "vault_address (VAULT_ADDR) must be a URL such as https://vault.example.com"),
        ({"vault_key": "/key"}, "vault_key is the key of vault_cert: give both"),
        ({"vault": Vault("https://x", auth=Token(SECRET))}, "vault_address is of no use with this vault"),
        (
            {"source": DynamicRole("x", vault=Vault("https://x", auth=Token(SECRET)))},
            "role is of no use with this source",
        ),
        ({"auth": None}, "auth_token needs auth, which names the method"),
        ({"auth": "approle"}, "auth_token is a setting of auth=token or jwt, and not of approle"),
        ({"auth": "userpass", "auth_token": None, "auth_password": SECRET}, "auth_username: missing, auth='userpass'"),
        ({"auth_token_file": "/x"}, "give token or auth_token_file, not both"),
        ({"auth_token": 7}, "auth_token must be a text that is not empty"),
        ({"policy_renew_at": 0.9}, "policy_renew_at must be at most 2/3"),
        ({"policy_burst": "2.5"}, "policy_burst must be a whole number"),
        (
            {"configure": "no.such:thing"},
            'configure must be "module:name", or the object itself, or none: it cannot be',
        ),
        ({"configure": 7}, 'configure must be "module:name", or the object itself, or none, not 7'),
        ({"conninfo": f"postgresql://app:{SECRET}@db/shop"}, "conninfo holds user and password, but the source brings"),
        (
            {"conninfo": "postgresql+psycopg://db/shop"},
            "conninfo must be libpq's: postgresql+psycopg:// is SQLAlchemy's",
        ),
        ({"kwargs": "x"}, "kwargs must be a mapping, in code only, or none"),
    ],
)
def test_bad_settings_are_named_with_a_remedy(change, text):
    """The error names the key as it was written, and what to write instead; never a secret."""
    settings = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    if not isinstance(change.get("source", ""), str):
        settings = {"role": "shop", **change}

    assert refused(settings).startswith(text)


def test_errors_spell_keys_as_they_were_given():
    """Capitals and prefixes of the place are those of the error."""
    capitals = {f"VAULT_POOL_{name.upper()}": value for name, value in GOOD.items()}

    assert refused({**capitals, "VAULT_POOL_MIN_SIZE": "x"}, "VAULT_POOL_").startswith("VAULT_POOL_MIN_SIZE must")
    assert refused({**capitals, "VAULT_POOL_ROLE": None}, "VAULT_POOL_").startswith("VAULT_POOL_ROLE: missing")
    assert refused({**capitals, "VAULT_POOL_RETRY": 1}, "VAULT_POOL_").startswith("VAULT_POOL_RETRY is no setting")
    assert refused({"ROLE": "shop", "MINSIZE": 1}) == "MINSIZE is no setting: did you mean MIN_SIZE?"


def test_errors_of_the_environment_name_the_variable(monkeypatch):
    """A mistyped variable is an error too, where it looks like one."""
    for name, value in GOOD.items():
        monkeypatch.setenv(f"VAULT_POOL_{name.upper()}", value)
    monkeypatch.setenv("VAULT_POOL_MAXSIZE", "7")
    with pytest.raises(ConfigurationError, match="VAULT_POOL_MAXSIZE is no setting: did you mean VAULT_POOL_MAX_SIZE"):
        VaultPool.from_env()
    monkeypatch.delenv("VAULT_POOL_MAXSIZE")
    monkeypatch.setenv("VAULT_POOL_MIN_SIZE", "few")
    with pytest.raises(ConfigurationError, match="VAULT_POOL_MIN_SIZE must be a whole number"):
        VaultPool.from_env()
    monkeypatch.delenv("VAULT_POOL_AUTH_TOKEN")
    monkeypatch.delenv("VAULT_POOL_MIN_SIZE")
    with pytest.raises(ConfigurationError, match="VAULT_POOL_AUTH='token' without settings of its own: no token"):
        VaultPool.from_env()


def test_settings_alone_load_no_hvac(monkeypatch):
    """A pool made by settings is as lazy as one made in code."""
    monkeypatch.delitem(sys.modules, "hvac", raising=False)
    VaultPool.from_config(GOOD)

    assert "hvac" not in sys.modules
