"""
AppRole: logins, secret ids, and the lockout.
"""

from __future__ import annotations

import pytest

BAD = (400, "invalid role or secret ID")
LOCKED = (403, "permission denied")


@pytest.fixture
def role(api):
    return api.server.add_approle("app", ["default"], token_ttl="20s", token_max_ttl="60s")


def login(api, role, secret_id=None):
    return api.ask(
        "POST", "auth/approle/login", {"role_id": role.role_id, "secret_id": secret_id or role.secret_id}, None
    )


def refused(answer):
    return answer[0], *answer[1]["errors"]


def test_a_login_makes_an_orphan_service_token(api, role):
    """The token has the role's TTL, and the role's name in its metadata."""
    status, body = login(api, role)
    auth = body["auth"]
    assert status == 200
    assert (auth["lease_duration"], auth["orphan"], auth["metadata"]) == (20, True, {"role_name": "app"})
    assert api.ok("GET", "auth/token/lookup-self", token=auth["client_token"])["data"]["display_name"] == "approle"


def test_renewals_read_the_role_anew(api, role):
    """The role's present TTLs count from the login on; without the role there is no renewal."""
    token = login(api, role)[1]["auth"]["client_token"]
    api.ok("POST", "auth/approle/role/app", {"token_ttl": "10s", "token_max_ttl": "15s"})
    assert api.ok("POST", "auth/token/renew-self", {}, token=token)["auth"]["lease_duration"] == 10
    api.server.step(9)
    assert api.ok("POST", "auth/token/renew-self", {}, token=token)["auth"]["lease_duration"] == 6
    api.ok("DELETE", "auth/approle/role/app")
    assert api.refusal("POST", "auth/token/renew-self", {}, token=token) == (
        500,
        '1 error occurred:\n\t* failed to renew entry: role "app" does not exist during renewal\n\n',
    )


def test_five_bad_logins_lock_the_role_id_out_for_everybody(api, role):
    """From the sixth on even the right secret id is refused, for a quarter of an hour."""
    for _ in range(5):
        assert refused(login(api, role, "wrong")) == BAD
    assert refused(login(api, role)) == LOCKED
    api.server.step(15 * 60 - 1)
    assert refused(login(api, role)) == LOCKED
    api.server.step(1)
    assert login(api, role)[0] == 200


def test_a_good_login_forgets_the_bad_ones(api, role):
    """The lockout counts bad logins in a row."""
    for _ in range(3):
        for _ in range(4):
            assert refused(login(api, role, "wrong")) == BAD
        assert login(api, role)[0] == 200


def test_an_operator_unlocks(api, role):
    """Locked users are listed, and let in again."""
    for _ in range(5):
        login(api, role, "wrong")
    listed = api.ok("GET", "sys/locked-users")["data"]["by_namespace"][0]["mount_accessors"][0]
    assert listed["alias_identifiers"] == [role.role_id]
    api.ok("POST", f"sys/locked-users/{listed['mount_accessor']}/unlock/{role.role_id}")
    assert login(api, role)[0] == 200


def test_the_lockout_can_be_tuned_and_disabled(api, role):
    """A mount's user_lockout_config rules."""
    api.ok(
        "POST", "sys/auth/approle/tune", {"user_lockout_config": {"lockout_threshold": "2", "lockout_duration": "2s"}}
    )
    for _ in range(2):
        assert refused(login(api, role, "wrong")) == BAD
    assert refused(login(api, role)) == LOCKED
    api.server.step(2)
    assert login(api, role)[0] == 200
    api.ok("POST", "sys/auth/approle/tune", {"user_lockout_config": {"lockout_disable": True}})
    for _ in range(9):
        assert refused(login(api, role, "wrong")) == BAD
    assert login(api, role)[0] == 200


def test_a_secret_id_is_used_up(api, role):
    """num_uses counts logins."""
    path = "auth/approle/role/app/secret-id"
    once = api.ok("POST", path, {"num_uses": 1, "metadata": '{"host": "a"}'})["data"]["secret_id"]
    assert login(api, role, once)[1]["auth"]["metadata"] == {"host": "a", "role_name": "app"}
    assert refused(login(api, role, once)) == BAD


def test_an_expired_secret_id_works_until_it_is_tidied_up(api, role):
    """The TTL of a secret id is enforced about once a minute."""
    short = api.ok("POST", "auth/approle/role/app/secret-id", {"ttl": "2s"})["data"]["secret_id"]
    api.server.step(50)
    assert login(api, role, short)[0] == 200
    api.server.step(15)
    assert refused(login(api, role, short)) == BAD


def test_custom_and_destroyed_secret_ids(api, role):
    """A secret id of one's own works until it is destroyed; its tokens live on."""
    api.ok("POST", "auth/approle/role/app/custom-secret-id", {"secret_id": "mine"})
    token = login(api, role, "mine")[1]["auth"]["client_token"]
    api.ok("POST", "auth/approle/role/app/secret-id/destroy", {"secret_id": "mine"})
    assert refused(login(api, role, "mine")) == BAD
    api.ok("GET", "auth/token/lookup-self", token=token)


def test_missing_parts_of_a_login(api, vault_api, role):
    """Without a role id it is a 500, whose text is the product's."""
    assert api.refusal("POST", "auth/approle/login", {"role_id": role.role_id}, None) == (400, "missing secret_id")
    assert api.refusal("POST", "auth/approle/login", {}, None) == (500, "missing role_id")
    vault_api.server.add_approle("app")
    assert vault_api.refusal("POST", "auth/approle/login", {}, None) == (
        500,
        "failed to determine alias name from login request",
    )


def test_networks_bind_logins_and_tokens(api):
    """A secret id bound to another network is refused at login, a bound token when it is used."""
    far = api.server.add_approle("far", secret_id_bound_cidrs="10.9.0.0/16")
    assert login(api, far)[0] == 400
    bound = api.server.add_approle("bound", token_bound_cidrs="10.9.0.0/16")
    token = login(api, bound)[1]["auth"]["client_token"]
    assert api.refusal("GET", "auth/token/lookup-self", token=token) == (403, "permission denied")


def test_a_login_at_an_unknown_mount_is_denied(api):
    """Without a token it is a 403, for root a 404."""
    assert api.refusal("POST", "auth/nowhere/login", {}, None) == (403, "permission denied")
    assert api.refusal("POST", "auth/nowhere/login", {})[0] == 404


def test_a_role_without_secret_id_needs_another_constraint(api, role):
    """Networks, of the secret id or of the token; without a constraint there is no role."""
    bare = {"bind_secret_id": False}
    assert api.refusal("POST", "auth/approle/role/open", bare)[0] == 500
    for name in ("secret_id_bound_cidrs", "token_bound_cidrs"):
        api.ok("POST", f"auth/approle/role/{name}", {**bare, name: "127.0.0.0/8"})
        role_id = api.ok("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
        assert api.ok("POST", "auth/approle/login", {"role_id": role_id}, token=None)["auth"]["client_token"]
