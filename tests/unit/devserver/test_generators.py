"""
User names and passwords, and how statements are cut up.
"""

from __future__ import annotations

import re

import pytest

from vault_pool.devserver import usernames
from vault_pool.devserver.clock import ManualClock
from vault_pool.devserver.errors import ApiError, BackendError
from vault_pool.devserver.flavor import OPENBAO, VAULT
from vault_pool.devserver.passwords import DEFAULT, parse_password_policy
from vault_pool.devserver.postgresql_plugin import PostgreSQL, fill, revocations, split_statement


def test_the_default_user_name():
    """Display name and role name are cut to eight characters."""
    name = usernames.generate(usernames.DEFAULT, "token-My-Service", "averylongrolename")
    assert re.fullmatch(r"v-token-My-averylon-[A-Za-z0-9]{20}-\d{10}", name)
    assert len(name) <= 63


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("x_{{.RoleName}}_{{random 6 | lowercase}}", r"x_app_[a-z0-9]{6}"),
        ('{{ .DisplayName | replace "-" "_" | uppercase }}', "TOKEN_X"),
        ("{{uuid}}", r"[0-9a-f-]{36}"),
    ],
)
def test_templates_of_ones_own(template, form):
    """Functions, pipes and fields work as in Go."""
    assert re.fullmatch(form, usernames.generate(template, "token-x", "app"))


def test_an_unknown_function_is_refused():
    """What cannot be understood is an error, not a name."""
    with pytest.raises(BackendError, match="not defined"):
        usernames.generate("{{nonsense}}", "a", "b")


def test_default_passwords_have_every_kind_of_character():
    """Twenty characters, at least one lower, upper, digit and dash."""
    for _ in range(50):
        password = DEFAULT.generate()
        assert len(password) == 20
        assert all(re.search(kind, password) for kind in ("[a-z]", "[A-Z]", "[0-9]", "-"))


def test_password_policies():
    """A policy may want any character; one that nothing satisfies is refused."""
    text = 'length=24\nrule "charset" { charset = "abc" min-chars=1 }\nrule "charset" { charset = "%@:/" min-chars=6 }'
    password = parse_password_policy(text).generate()
    assert len(password) == 24
    assert sum(one in "%@:/" for one in password) >= 6
    with pytest.raises(ApiError):
        parse_password_policy('length=2\nrule "charset" { charset = "abc" min-chars=3 }')


@pytest.mark.parametrize(
    ("statement", "parts"),
    [
        ("a; b ;; ", ["a", "b"]),
        ("DO $$ BEGIN x; END $$;", ["DO $$ BEGIN x; END $$;"]),
        ('SELECT "END"; b', ['SELECT "END"', "b"]),
        ('["a; b", "c"]', ["a; b", "c"]),
        ("", []),
    ],
)
def test_statements_are_split_at_semicolons_but_for_blocks(statement, parts):
    """A DO block stays whole, a JSON list is its parts."""
    assert split_statement(statement) == parts


def test_values_are_pasted_without_quoting():
    """Templating is plain replacement."""
    assert fill("{{name}} {{ name }} '{{password}}'", {"name": "a'b", "password": "c"}) == "a'b {{ name }} 'c'"


def test_the_default_revocation_in_order():
    """Schemas with grants first, then public, then the database; only OpenBao quotes the first schema."""
    statements = list(revocations(["extra"], "app", '"u"', OPENBAO))
    assert statements == [
        'REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA "extra" FROM "u";',
        'REVOKE USAGE ON SCHEMA "extra" FROM "u";',
        'REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA public FROM "u";',
        'REVOKE ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA public FROM "u";',
        'REVOKE USAGE ON SCHEMA public FROM "u";',
        'REVOKE CONNECT ON DATABASE "app" FROM "u";',
    ]
    assert next(revocations(["extra"], "app", '"u"', VAULT)).endswith('IN SCHEMA extra FROM "u";')


def test_a_connection_without_a_url_is_refused():
    """The plugin needs a place to connect to."""
    with pytest.raises(BackendError, match="connection_url cannot be empty"):
        PostgreSQL({}, OPENBAO, ManualClock())
