"""
Each refusal of Vault, and what it becomes.
"""

from __future__ import annotations

import pytest

from vault_pool.errors import LeaseLost, VaultDenied, VaultRefused, VaultUnavailable
from vault_pool.vault.translate import refusal

CREDS = ("GET", "database/creds/app")
RENEW = ("PUT", "sys/leases/renew")
REVOKE = ("PUT", "sys/leases/revoke")
LOOKUP = ("PUT", "sys/leases/lookup")
SELF = ("POST", "auth/token/renew-self")
LOGIN = ("POST", "auth/approle/login")
ENTRY = "failed to renew entry: resp: (*logical.Response)(nil) err: "


def one(text):
    """The text as Go lists a single error."""
    return f"1 error occurred:\n\t* {text}\n\n"


# request, status, text (None: not Vault's JSON), class, retryable, created_nothing, words of the message
CASES = [
    (CREDS, 400, "unknown role: app", VaultRefused, False, False, "there is no database/roles/app"),
    (CREDS, 500, one('"app" is not an allowed role'), VaultRefused, False, False, "database/config/"),
    (CREDS, 500, one('failed to find entry for connection with name: "x"'), VaultRefused, False, False, "connection"),
    (CREDS, 500, one("unable to start transaction: failed to connect"), VaultUnavailable, True, False, "transaction"),
    (CREDS, 500, one("internal error"), VaultUnavailable, True, False, "internal error"),
    (CREDS, 500, one("local node not active but active cluster node not found"), VaultUnavailable, True, True, ""),
    (CREDS, 403, one("permission denied"), VaultDenied, False, True, 'capabilities = ["read"]'),
    (CREDS, 403, "permission denied", VaultDenied, False, True, "the token has ended"),
    (CREDS, 403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n", VaultDenied, False, True, "ended"),
    (CREDS, 403, None, VaultUnavailable, True, False, "proxy"),
    (CREDS, 404, 'no handler for route "database/creds/app". route entry not found.',
     VaultRefused, False, False, "mount_point"),
    (CREDS, 404, one("unsupported path"), VaultRefused, False, False, "mount_point"),
    (CREDS, 404, "", VaultRefused, False, False, "mount_point"),
    (CREDS, 404, "namespace not found", VaultRefused, False, False, "VAULT_NAMESPACE"),
    (CREDS, 404, None, VaultUnavailable, True, False, "not Vault's JSON"),
    (CREDS, 503, "Vault is sealed", VaultUnavailable, True, True, "sealed"),
    (CREDS, 503, None, VaultUnavailable, True, False, "503"),
    (CREDS, 429, 'request path "x": rate limit quota exceeded', VaultUnavailable, True, True, "quota"),
    (CREDS, 412, "required index state not present", VaultUnavailable, True, True, "index state"),
    (CREDS, 472, None, VaultUnavailable, True, True, "472"),
    (CREDS, 473, "", VaultUnavailable, True, True, "473"),
    (CREDS, 530, "", VaultUnavailable, True, True, "530"),
    (SELF, 500, one("failed to renew entry: client identity during renewal not matching client identity used during "
     "login"), VaultRefused, False, False, "identity"),
    (CREDS, 400, "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked.",
     VaultDenied, False, True, "no uses left"),
    (RENEW, 400, "lease not found", LeaseLost, False, False, "lease not found"),
    (RENEW, 400, "lease expired", LeaseLost, False, False, "lease expired"),
    (RENEW, 400, "lease is expired and has failed previous revocation attempts", LeaseLost, False, False, ""),
    (RENEW, 400, ENTRY + one('ERROR: role "v-x" does not exist (SQLSTATE 42704)'), LeaseLost, False, False, ""),
    (RENEW, 400, "lease is not renewable", VaultRefused, False, False, "renewing it is over"),
    (RENEW, 400, ENTRY + "past the max TTL, cannot renew", VaultRefused, False, False, "renewing it is over"),
    (RENEW, 400, 'error during renew: could not find role with name "app"', VaultRefused, False, False, "over"),
    (RENEW, 400, ENTRY + one("failed to connect to `user=u database=d`"), VaultUnavailable, True, False, "connect"),
    (RENEW, 500, one("operation could not be completed as storage is read-only"),
     VaultUnavailable, True, False, "standby"),
    (LOOKUP, 400, "invalid lease", LeaseLost, False, False, "invalid lease"),
    (REVOKE, 400, "failed to revoke entry: resp: (*logical.Response)(nil) err: ERROR: no drop (SQLSTATE 2BP01)",
     VaultUnavailable, True, False, "2BP01"),
    (REVOKE, 403, one("permission denied"),
     VaultDenied, False, True, 'path "sys/leases/revoke" { capabilities = ["update"] }'),
    (SELF, 400, "invalid lease ID", VaultRefused, False, False, ""),
    (SELF, 400, "batch tokens cannot be renewed", VaultRefused, False, False, ""),
    (SELF, 500, one("past the max TTL, cannot renew"), VaultRefused, False, False, ""),
    (SELF, 500, one("failed to renew entry: policies have changed, not renewing"), VaultRefused, False, False, ""),
    (LOGIN, 400, "invalid role or secret ID", VaultDenied, False, True, "login was refused"),
    (LOGIN, 403, "permission denied", VaultDenied, False, True, "locked out"),
    (LOGIN, 500, one("internal error"), VaultUnavailable, True, False, ""),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "status", "text", "kind", "retryable", "nothing", "words"), CASES)
def test_a_refusal_becomes_what_is_to_be_done(request_, status, text, kind, retryable, nothing, words):
    """Status and text decide the class, whether to try again, and whether at once."""
    texts = None if text is None else [text] if text else []
    error = refusal(*request_, status, texts, {})
    assert type(error) is kind
    assert (error.retryable, error.created_nothing, error.status) == (retryable, nothing, status)
    assert words in str(error)
    assert "\n" not in str(error)


NOON, LATER = "Mon, 21 Sep 2026 12:00:00 GMT", "Mon, 21 Sep 2026 12:01:30 GMT"


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({}, 1.0),
        ({"retry-after": "soon"}, 1.0),
        ({"retry-after": "-5"}, 1.0),
        ({"retry-after": "86400"}, 600.0),
        ({"retry-after": LATER, "date": NOON}, 90.0),
        ({"retry-after": NOON, "date": LATER}, 0.0),
        ({"retry-after": LATER}, 1.0),
    ],
)
def test_a_quota_says_when_to_come_back(header, pause):
    """Retry-After is kept, as seconds or as a date by the server's clock, ten minutes at most; else it is a second."""
    error = refusal(*CREDS, 429, ["quota exceeded"], header)
    assert error.retry_after == pause


@pytest.mark.parametrize(
    ("text", "dead"),
    [("permission denied", True), (one("permission denied"), False), (one("x") + "invalid token", True)],
)
def test_the_text_of_a_403_hints_at_its_cause(text, dead):
    """The bare text is a dead token's, the listed one a policy's."""
    assert refusal(*CREDS, 403, [text], {}).token_dead is dead
