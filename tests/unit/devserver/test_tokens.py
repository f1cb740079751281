"""
Tokens: what they show, how they are renewed, and who dies with whom.
"""

from __future__ import annotations

import pytest


def lookup(api, token):
    return api.ok("GET", "auth/token/lookup-self", token=token)["data"]


def renew(api, token, **body):
    return api.ok("POST", "auth/token/renew-self", body, token=token)


def test_the_root_token_never_ends(api):
    """It has no end, is not renewable, and is called token, as in dev mode."""
    shown = lookup(api, api.root)
    assert (shown["expire_time"], shown["ttl"], shown["renewable"], shown["display_name"]) == (None, 0, False, "token")
    assert api.refusal("POST", "auth/token/renew-self", {}) == (400, "lease is not renewable")


def test_a_token_dies_at_its_end(api):
    """From its last second on the token is unknown."""
    token = api.token("default", ttl="5s")
    api.server.step(4.9)
    assert lookup(api, token)["ttl"] == 0
    api.server.step(0.1)
    assert api.refusal("GET", "auth/token/lookup-self", token=token) == (403, "permission denied")
    assert api.refusal("POST", "auth/token/lookup", {"token": token}) == (403, "bad token")
    assert api.refusal("POST", "auth/token/renew", {"token": token}) == (400, "token not found")


def test_a_renewal_without_an_increment_repeats_the_last_one(api):
    """The TTL of the renewal before counts, not the one at creation."""
    token = api.token("default", ttl="60s")
    assert renew(api, token)["auth"]["lease_duration"] == 60
    assert renew(api, token, increment="2m")["auth"]["lease_duration"] == 120
    assert renew(api, token)["auth"]["lease_duration"] == 120


def test_an_explicit_maximum_shrinks_renewals(api):
    """Renewed every second, a token of 4 s with 8 s at most ends with shorter and shorter durations."""
    token = api.token("default", ttl="4s", explicit_max_ttl="8s")
    durations = [api.server.step(1) or renew(api, token)["auth"]["lease_duration"] for _ in range(7)]
    assert durations == [4, 4, 4, 4, 3, 2, 1]


def test_a_periodic_token_gets_its_period(api):
    """The increment is ignored, the life has no bound."""
    token = api.token("default", period="40s")
    for _ in range(5):
        api.server.step(39)
        assert renew(api, token, increment=3600)["auth"]["lease_duration"] == 40


def test_children_die_with_their_parent_unless_orphaned(api):
    """Revocation goes down the tree; revoke-orphan stops at the first generation."""
    api.server.add_policy("make", 'path "auth/token/create" { capabilities = ["update"] }')
    parent = api.token("make")
    child = api.ok("POST", "auth/token/create", {}, token=parent)["auth"]["client_token"]
    grandchild = api.ok("POST", "auth/token/create", {}, token=child)["auth"]["client_token"]
    api.ok("POST", "auth/token/revoke-orphan", {"token": parent})
    assert lookup(api, child)["orphan"]
    api.ok("POST", "auth/token/revoke", {"token": child})
    assert api.refusal("GET", "auth/token/lookup-self", token=grandchild)[0] == 403


def test_a_child_gets_no_policy_that_its_parent_lacks(api):
    """Without sudo the policies are a subset, and nobody becomes an orphan or chooses an id."""
    api.server.add_policy("make", 'path "auth/token/create" { capabilities = ["update"] }')
    parent = api.token("make")
    for body, text in (
        ({"policies": ["other"]}, "child policies must be subset of parent"),
        ({"no_parent": True}, "root or sudo privileges required to create orphan token"),
        ({"id": "mine"}, "root or sudo privileges required to specify token id"),
        ({"period": "5s"}, "root or sudo privileges required to create periodic token"),
    ):
        assert api.refusal("POST", "auth/token/create", body, token=parent) == (400, text)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"num_uses": -1}, "number of uses cannot be negative"),
        ({"type": "batch", "period": "5s"}, 'batch tokens cannot have "period" set'),
        ({"ttl": "abc"}, 'time: invalid duration "abc"'),
        ({"id": "s.mine"}, "custom token ID cannot have the 's.' prefix"),
    ],
)
def test_impossible_tokens_are_refused(api, body, text):
    """What cannot be is refused in Vault's words."""
    assert api.refusal("POST", "auth/token/create", body) == (400, text)


def test_batch_tokens_cannot_be_renewed_nor_revoked(api):
    """A batch token has no accessor and only its own end."""
    token = api.token("default", type="batch", ttl="60s")
    assert token.startswith("b.")
    assert lookup(api, token)["accessor"] == ""
    assert api.refusal("POST", "auth/token/renew-self", {}, token=token) == (400, "batch tokens cannot be renewed")
    assert api.refusal("POST", "auth/token/revoke-self", token=token) == (400, "batch tokens cannot be revoked")
    api.server.step(60)
    assert api.refusal("GET", "auth/token/lookup-self", token=token) == (403, "permission denied")


def test_every_use_counts_also_the_denied_one(api):
    """num_uses counts down to a last answer, then the token is dead."""
    token = api.token("default", num_uses=3)
    assert lookup(api, token)["num_uses"] == 2
    assert api.refusal("GET", "v/creds/x", token=token)[0] == 403
    assert lookup(api, token)["num_uses"] == -1
    assert api.refusal("GET", "auth/token/lookup-self", token=token) == (403, "permission denied")


def test_the_flavors_differ_in_the_form_of_tokens(api, vault_api):
    """OpenBao's tokens are short, Vault's are long."""
    assert len(api.token("default")) == 26
    assert len(vault_api.token("default")) == 95
    assert vault_api.token("default").startswith("hvs.")
