"""
A development server that was broken on purpose is caught.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import ceil
from typing import Any

import pytest

from tests.contract.recording import load, recordings
from tests.contract.replay import replay
from vault_pool.devserver import (
    approle,
    core,
    database,
    flavor,
    jws,
    kv_secret,
    leases,
    lockout,
    passwords,
    postgresql_plugin,
    quotas,
    seal,
    tokens,
    ttl,
)
from vault_pool.devserver.approle_role import SecretId
from vault_pool.devserver.errors import ApiError
from vault_pool.devserver.pgx import Session
from vault_pool.devserver.wrapping import Wrapping

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_SCENARIOS = {str(one): one for path in recordings() for one in load(path)}
Break = Callable[[pytest.MonkeyPatch], Any]


def _valid_until_the_end_of_the_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(database, "_VALID_LONGER", 0.0)


def _an_unknown_role_is_not_found(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(database, "refused", lambda text: ApiError(404, text))


def _weak_passwords(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(type(passwords.DEFAULT), "generate", lambda _self: "a" * 20)


def _one_statement_of_revocation_forgotten(patch: pytest.MonkeyPatch) -> None:
    true = postgresql_plugin.revocations
    patch.setattr(postgresql_plugin, "revocations", lambda *given: list(true(*given))[:-1])


def _statements_without_a_ping(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "ping", lambda _self: None)


def _revoked_without_the_database(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(postgresql_plugin.PostgreSQL, "delete_user", lambda *_given: None)


def _leases_outlive_their_token(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases.Leases, "revoke_of_token", lambda *_given: None)


def _renewals_beyond_the_greatest_ttl(patch: pytest.MonkeyPatch) -> None:
    def generous(limits: ttl.Limits, wish: ttl.Wish, **times: Any) -> tuple[int, list[str]]:
        return ttl.calculate_ttl(limits, dataclasses.replace(wish, max_ttl=0), **times)

    patch.setattr(leases, "calculate_ttl", generous)


def _remaining_time_rounded_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases.Lease, "remaining", lambda self, now: ceil((self.expire_time or now) - now))


def _uses_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tokens.TokenStore, "use", lambda *_given: False)


def _wrapping_tokens_serve_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Wrapping, "_take", lambda self, token: self._kept[token])


def _secret_ids_serve_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SecretId, "over", lambda *_given: False)
    patch.setattr(approle, "in_networks", lambda *_given: True)


def _a_policy_denial_looks_like_a_dead_token(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(core, "denied_by_policy", lambda: ApiError(403, "permission denied"))


def _sealed_looks_healthy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seal, "_status_of", lambda *_given: 200)


def _redirects_of_the_other_product(patch: pytest.MonkeyPatch) -> None:
    from vault_pool.devserver import server

    patch.setitem(server.FLAVORS, "openbao", dataclasses.replace(flavor.OPENBAO, redirect_status=301))


def _a_rotation_that_the_database_is_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(postgresql_plugin.PostgreSQL, "change_password", lambda *_given: None)


def _deleted_versions_can_be_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kv_secret.Version, "readable", lambda *_given: True)


def _quotas_without_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(quotas.Quotas, "take", lambda *_given: {})


def _signatures_that_nobody_checks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(jws, "_is_signed_by", lambda *_given: True)


def _nobody_is_locked_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lockout.Lockout, "locked", lambda *_given: False)


_BREAKS: list[tuple[str, Break]] = [
    ("dynamic", _valid_until_the_end_of_the_lease),
    ("dynamic", _an_unknown_role_is_not_found),
    ("dynamic", _weak_passwords),
    ("revocation", _one_statement_of_revocation_forgotten),
    ("revocation", _statements_without_a_ping),
    ("leases", _revoked_without_the_database),
    ("dynamic_numuses", _leases_outlive_their_token),
    ("renew_equal", _renewals_beyond_the_greatest_ttl),
    ("expiry_sessions", _remaining_time_rounded_up),
    ("dynamic_numuses", _uses_are_not_counted),
    ("wrapping", _wrapping_tokens_serve_twice),
    ("approle", _secret_ids_serve_for_ever),
    ("policies", _a_policy_denial_looks_like_a_dead_token),
    ("health", _sealed_looks_healthy),
    ("routing", _redirects_of_the_other_product),
    ("static_roles", _a_rotation_that_the_database_is_not_told),
    ("kv", _deleted_versions_can_be_read),
    ("quota", _quotas_without_end),
    ("jwt", _signatures_that_nobody_checks),
    ("userpass", _nobody_is_locked_out),
]


@pytest.mark.parametrize(("scenario", "break_it"), _BREAKS, ids=lambda one: getattr(one, "__name__", one))
def test_a_server_broken_on_purpose_is_caught(scenario: str, break_it: Break, recorded_postgres, monkeypatch):
    """The replay of a recording reports what was broken."""
    break_it(monkeypatch)
    found = replay(_SCENARIOS[f"openbao-{scenario}"], recorded_postgres, manual=True)
    assert [one for one in found if not one.reason]
