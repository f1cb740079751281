"""
Policies: their language, and what they allow.
"""

from __future__ import annotations

import pytest

from vault_pool.devserver.hcl import HclError, parse
from vault_pool.devserver.policies import Acl, default_policy, parse_policy


def acl(*texts):
    return Acl([parse_policy(str(number), text) for number, text in enumerate(texts)])


def rule(path, *capabilities):
    names = ", ".join(f'"{name}"' for name in capabilities)
    return f'path "{path}" {{ capabilities = [{names}] }}\n'


def test_hcl_knows_comments_heredocs_lists_and_numbers():
    """The forms that policies are written in are read."""
    block = parse('# one\n// two\n/* three */ a = 5\nb = ["x", "y",]\nc = <<EOT\nline\nEOT\nd "l" { e = true }')
    assert block.attributes == {"a": 5, "b": ["x", "y"], "c": "line\n"}
    assert block.blocks[0].label == "l"
    assert block.blocks[0].attributes == {"e": True}


def test_json_policies_are_policies():
    """JSON says the same as HCL."""
    assert acl('{"path": {"a/b": {"capabilities": ["read"]}}}').capabilities("a/b") == ["read"]


def test_the_place_of_an_error_is_named():
    """An open brace at the end is reported as Vault does."""
    with pytest.raises(HclError, match=r"^At 1:8: object expected closing RBRACE got: EOF$"):
        parse_policy("bad", "path {")


def test_unknown_capabilities_are_refused():
    """A misspelt capability does not go unnoticed."""
    with pytest.raises(HclError, match='path "x": invalid capability "raed"'):
        parse_policy("bad", rule("x", "raed"))


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/", True),
        ("a/b", "a/bc", False),
        ("a/b*", "a/bc/d", True),
        ("a/*", "a/", True),
        ("a/*", "a", False),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/b/c", False),
        ("+/b", "a/b", True),
        ("a/+/c*", "a/b/cd/e", True),
        ("a/+/c*", "a/b/d", False),
        ("a/+", "a", False),
    ],
)
def test_exact_glob_and_segment_patterns(pattern, path, matches):
    """`*` ends a prefix, `+` is one segment."""
    assert (acl(rule(pattern, "read")).capabilities(path) == ["read"]) is matches


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        ("a/b/c", "a/b/*"),
        ("a/b/*", "a/*"),
        ("a/*", "+/b/c"),
        ("a/+/c", "a/+/*"),
        ("a/+/c", "a/+/+"),
    ],
)
def test_the_more_specific_pattern_decides_alone(winner, loser):
    """Capabilities of a pattern with a lower priority do not count."""
    for texts in ((rule(winner, "read"), rule(loser, "update")), (rule(loser, "update"), rule(winner, "read"))):
        assert acl(*texts).capabilities("a/b/c") == ["read"]


def test_the_same_path_adds_up_and_deny_wins():
    """Two policies about one path grant their union, unless one denies."""
    assert acl(rule("a", "read"), rule("a", "update")).capabilities("a") == ["read", "update"]
    assert acl(rule("a", "read"), rule("a", "deny")).capabilities("a") == ["deny"]


def test_parameters_are_restricted():
    """Only allowed parameters with allowed values pass, and required ones must be there."""
    restricted = acl(
        'path "a" { capabilities = ["update"] allowed_parameters = { "x" = [] "y" = ["1*"] }'
        ' denied_parameters = { "z" = [] } required_parameters = ["x"] }'
    )
    assert restricted.allows("update", "a", {"x": 1, "y": "12"}, sudo=False)
    assert not restricted.allows("update", "a", {"x": 1, "y": "2"}, sudo=False)
    assert not restricted.allows("update", "a", {"x": 1, "other": 1}, sudo=False)
    assert not restricted.allows("update", "a", {"y": "1"}, sudo=False)
    assert not acl('path "a" { capabilities = ["update"] denied_parameters = { "z" = [] } }').allows(
        "update", "a", {"z": 1}, sudo=False
    )


def test_sudo_paths_need_both_capabilities():
    """A sudo path wants sudo besides the operation's own capability."""
    assert not acl(rule("a", "update")).allows("update", "a", {}, sudo=True)
    assert acl(rule("a", "update", "sudo")).allows("update", "a", {}, sudo=True)
    assert not acl(rule("a", "sudo")).allows("update", "a", {}, sudo=True)


def test_nothing_is_allowed_by_nobody():
    """Without a policy everything is denied."""
    assert acl().capabilities("a") == ["deny"]


def test_the_default_policy_renews_leases_but_does_not_revoke_them():
    """What every token may do, and what it may not."""
    default = acl(default_policy(openbao=True))
    assert default.capabilities("sys/leases/renew") == ["update"]
    assert default.capabilities("sys/leases/renew/x") == ["deny"]
    assert default.capabilities("sys/leases/revoke") == ["deny"]
    assert default.capabilities("auth/token/revoke-self") == ["update"]
    assert acl(default_policy(openbao=False)).capabilities("sys/renew") == ["update"]


def test_a_change_of_policy_counts_at_once(api):
    """A token's policies are read anew for each request."""
    token = api.token("app")
    denied = (403, "1 error occurred:\n\t* permission denied\n\n")
    assert api.refusal("GET", "v/creds/x", token=token) == denied
    api.server.add_policy("app", rule("v/creds/x", "read"))
    api.ok("GET", "v/creds/x", token=token)
    api.ok("DELETE", "sys/policies/acl/app")
    assert api.refusal("GET", "v/creds/x", token=token) == denied


def test_lists_of_leases_need_sudo(api):
    """`list` alone does not open sys/leases/lookup."""
    api.lease()
    api.server.add_policy("all", rule("sys/leases/*", "list", "read", "update"))
    api.server.add_policy("more", rule("sys/leases/*", "list", "read", "update", "sudo"))
    assert api.refusal("LIST", "sys/leases/lookup/v/", token=api.token("all"))[0] == 403
    assert api.ok("LIST", "sys/leases/lookup/v/", token=api.token("more"))["data"] == {"keys": ["creds/"]}
