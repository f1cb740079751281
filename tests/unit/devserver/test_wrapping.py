"""
Response wrapping: an answer that can be fetched once.
"""

from __future__ import annotations

import pytest

INVALID = (400, "wrapping token is not valid or does not exist")


@pytest.fixture
def wrapped(api):
    """A wrapped lease of the vending engine: its wrapping token."""
    info = api.ok("GET", "v/creds/x", x_vault_wrap_ttl="2m")["wrap_info"]
    assert (info["ttl"], info["creation_path"]) == (120, "v/creds/x")
    return info["token"]


def test_the_answer_comes_once(api, wrapped):
    """The wrapping token fetches the original answer, and is used up."""
    assert api.ok("POST", "sys/wrapping/lookup", {"token": wrapped}, None)["data"]["creation_path"] == "v/creds/x"
    answer = api.ok("PUT", "sys/wrapping/unwrap", token=wrapped)
    assert answer["data"] == {"number": 0}
    api.ok("PUT", "sys/leases/renew", {"lease_id": answer["lease_id"]})
    assert api.refusal("PUT", "sys/wrapping/unwrap", token=wrapped) == INVALID
    assert api.refusal("POST", "sys/wrapping/lookup", {"token": wrapped}) == INVALID


def test_a_token_of_ones_own_may_unwrap(api, wrapped):
    """The wrapping token stands in the body then; without a client token that is denied."""
    assert api.refusal("PUT", "sys/wrapping/unwrap", {"token": wrapped}, None) == (403, "permission denied")
    assert api.ok("PUT", "sys/wrapping/unwrap", {"token": wrapped}, api.token("default"))["data"] == {"number": 0}


def test_a_wrapping_token_is_good_for_nothing_else(api, wrapped):
    """Another use is denied by policy, and costs the answer."""
    assert api.refusal("GET", "auth/token/lookup-self", token=wrapped)[1].endswith("permission denied\n\n")
    assert api.refusal("PUT", "sys/wrapping/unwrap", token=wrapped) == INVALID


def test_what_is_not_fetched_is_lost(api, wrapped):
    """After the wrapping TTL the answer is gone."""
    api.server.step(120)
    assert api.refusal("PUT", "sys/wrapping/unwrap", token=wrapped) == INVALID


def test_rewrapping_keeps_the_answer(api, wrapped):
    """A new wrapping token replaces the old one."""
    again = api.ok("PUT", "sys/wrapping/rewrap", {"token": wrapped})["wrap_info"]["token"]
    assert api.refusal("PUT", "sys/wrapping/unwrap", token=wrapped) == INVALID
    assert api.ok("PUT", "sys/wrapping/unwrap", token=again)["data"] == {"number": 0}


def test_what_has_no_body_is_not_wrapped(api):
    """Errors and answers without a body come as they are."""
    assert api.ask("POST", "sys/policies/acl/x", {"policy": 'path "a" {}'}, x_vault_wrap_ttl="60") == (204, None)
    assert api.refusal("GET", "v/nothing", x_vault_wrap_ttl="60")[0] == 404
    assert api.refusal("GET", "v/creds/x", x_vault_wrap_ttl="abc") == (
        400,
        'error parsing X-Vault-Wrap-TTL header: time: invalid duration "abc"',
    )
