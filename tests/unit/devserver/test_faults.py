"""
Faults: which requests meet them, how often, and what they are answered.
"""

from __future__ import annotations

import json
import threading
import time

import pytest

from vault_pool.devserver import faults
from vault_pool.devserver.exchange import HttpRequest
from vault_pool.devserver.front import Front

LOGIN = "auth/approle/login"


def exchange(api, method, target, body=b"", token="root", **headers):
    """Return the whole answer, headers included."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        named["x-vault-token"] = api.root if token == "root" else token
    return Front(api.server.core).handle(HttpRequest(method=method, target=target, body=body, headers=named))


@pytest.mark.parametrize(
    ("kind", "settings", "status", "body"),
    [
        ("sealed", {}, 503, {"errors": ["Vault is sealed"]}),
        ("standby", {}, 503, {"errors": ["no active Vault instance found"]}),
        ("rate-limited", {}, 429, {"errors": ['request path "v/creds/x": rate limit quota exceeded']}),
        (
            "lease-limited",
            {},
            429,
            {"errors": ['1 error occurred:\n\t* request path "v/creds/x": lease count quota exceeded\n\n']},
        ),
        ("behind", {}, 412, {"errors": ["required index state not present"]}),
        ("header-required", {}, 412, {"errors": ['missing "X-Vault-Request" header']}),
        ("error", {}, 500, {"errors": ["1 error occurred:\n\t* internal error\n\n"]}),
        ("denied", {}, 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}),
        ("bad-token", {}, 403, {"errors": ["permission denied"]}),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_fault_answers_instead_before_or_after_the_work(api, kind, settings, status, body, after):
    """The answer is the same; what was done is not."""
    with api.server.inject(kind, path="v/", after=after, **settings):
        assert api.ask("GET", "v/creds/x") == (status, body)
    assert api.vending.issued == ([0] if after else [])
    assert api.ask("GET", "v/creds/x")[0] == 200


def test_a_fault_meets_the_path_the_operation_and_the_times_that_it_names(api):
    """All else passes."""
    fault = api.server.inject("denied", path="/v1/v/creds", operation="read", times=2)
    assert api.ask("GET", "auth/token/lookup-self")[0] == 200
    assert api.ask("POST", "v/creds/x", {})[0] == 405
    assert [api.ask("GET", "v/creds/x")[0] for _ in range(3)] == [403, 403, 200]
    assert fault.met == 2


def test_faults_are_met_one_after_the_other(api):
    """The oldest comes first, as long as its times last."""
    api.server.inject("denied", times=1)
    api.server.inject("behind", times=1)
    assert [api.ask("GET", "v/creds/x")[0] for _ in range(3)] == [403, 412, 200]


@pytest.mark.parametrize(("kind", "status"), [("sealed", 503), ("standby", 429), ("standby-reads", 429)])
def test_health_tells_the_state(api, kind, status):
    """Sealed is told with a sealed body, standby with 429; a query may accept it."""
    with api.server.inject(kind):
        answer = exchange(api, "GET", "/v1/sys/health")
        assert (answer.status, answer.body["standby"]) == (status, True)
        assert answer.body["sealed"] is (kind == "sealed")
        assert exchange(api, "GET", "/v1/sys/seal-status").body["sealed"] is (kind == "sealed")
        accepted = exchange(api, "GET", "/v1/sys/health?standbyok=true").status
        assert accepted == (503 if kind == "sealed" else 200)
    assert exchange(api, "GET", "/v1/sys/health").status == 200


def test_a_performance_standby_serves_and_says_473(api):
    """Only its health is different."""
    with api.server.inject("performance-standby"):
        answer = exchange(api, "GET", "/v1/sys/health")
        assert (answer.status, answer.body["performance_standby"]) == (473, True)
        assert exchange(api, "GET", "/v1/sys/health?perfstandbyok=true").status == 200
        assert api.ask("GET", "v/creds/x")[0] == 200


def test_a_standby_redirects_to_the_active_node(api):
    """307 with the whole target, without a body and a content type."""
    with api.server.inject("standby", address="https://active:8200/"):
        answer = exchange(api, "GET", "/v1/v/creds/x?a=1")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (307, None, "")
    assert answer.headers["Location"] == "https://active:8200/v1/v/creds/x?a=1"


def test_a_rate_limit_says_when_only_where_told_to(api):
    """The headers come with `retry_after`."""
    with api.server.inject("rate-limited"):
        assert "Retry-After" not in exchange(api, "GET", "/v1/v/creds/x").headers
    with api.server.inject("rate-limited", retry_after=3):
        assert exchange(api, "GET", "/v1/v/creds/x").headers["Retry-After"] == "3"


def test_a_required_header_lets_pass_who_sends_it(api):
    """Only requests without it are refused."""
    with api.server.inject("header-required"):
        assert exchange(api, "GET", "/v1/v/creds/x", x_vault_request="true").status == 200


def test_an_error_that_is_not_vaults_is_a_page(api):
    """What a load balancer says is no JSON."""
    with api.server.inject("error", status=502):
        answer = exchange(api, "GET", "/v1/v/creds/x")
    assert (answer.status, answer.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
    assert "502 Bad Gateway" in answer.body


@pytest.mark.parametrize(("after", "issued"), [(False, []), (True, [0])])
def test_a_hanging_answer_is_held_before_or_after_its_work(api, after, issued):
    """A lost answer may have done its work, or not."""
    answers = []
    with api.server.inject("hang", path="v/creds", after=after) as hang:
        thread = threading.Thread(target=lambda: answers.append(api.ask("GET", "v/creds/x")))
        thread.start()
        assert hang.wait_met()
        assert (api.vending.issued, answers) == (issued, [])
    thread.join()
    assert answers[0][0] == 200


def test_a_slow_answer_takes_its_time(api):
    """It is the true one."""
    with api.server.inject("slow", seconds=0.05):
        began = time.monotonic()
        assert api.ask("GET", "v/creds/x")[0] == 200
        assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize(("kind", "after", "issued"), [("drop", False, []), ("drop", True, [0]), ("cut", None, [0])])
def test_a_lost_answer_ends_the_connection(api, kind, after, issued):
    """It was carried out, or not."""
    settings = {} if after is None else {"after": after}
    with api.server.inject(kind, **settings), pytest.raises(ConnectionResetError):
        api.ask("GET", "v/creds/x")
    assert api.vending.issued == issued


def test_a_truncated_renewal_shortens_a_lease_and_a_token(api):
    """It comes with the warning of a max_ttl, and the lease really ends then."""
    lease, token = api.lease(), api.token(ttl="1h")
    api.vending.wish = type(api.vending.wish)(ttl=60)
    with api.server.inject("truncated", seconds=3):
        renewed = api.ok("PUT", "sys/leases/renew", {"lease_id": lease})
        assert renewed["lease_duration"] == 3
        assert 'exceeded the effective max_ttl of "3s"' in renewed["warnings"][0]
        assert api.ok("POST", "auth/token/renew-self", {}, token=token)["auth"]["lease_duration"] == 3
    api.server.step(3.1)
    assert api.refusal("PUT", "sys/leases/renew", {"lease_id": lease}) == (400, "lease not found")
    assert api.ask("GET", "auth/token/lookup-self", token=token)[0] == 403


def test_a_standby_with_reads_does_half_of_a_renewal_and_of_a_revocation(api):
    """openbao 2.5: the database's part is done, then storage refuses; the lease is as it was."""
    lease = api.lease()
    refusal = (500, "1 error occurred:\n\t* operation could not be completed as storage is read-only\n\n")
    with api.server.inject("standby-reads"):
        assert api.refusal("PUT", "sys/leases/renew", {"lease_id": lease}) == refusal
        assert api.refusal("PUT", "sys/leases/revoke", {"lease_id": lease}) == refusal
        assert api.refusal("GET", "auth/token/lookup-self", x_vault_wrap_ttl="60") == (500, "internal error")
        assert api.ok("PUT", "sys/leases/lookup", {"lease_id": lease})["data"]["last_renewal"] is None
    assert (api.vending.renewed, api.vending.revoked) == ([0], [0])


def test_a_login_may_want_a_second_factor(api):
    """It is a 200 without a token."""
    login = api.server.add_approle("app")
    body = {"role_id": login.role_id, "secret_id": login.secret_id}
    with api.server.inject("mfa", path="auth/approle"):
        auth = api.ok("POST", LOGIN, body, token=None)["auth"]
        assert (auth["client_token"], auth["policies"]) == ("", None)
        assert auth["mfa_requirement"]["mfa_request_id"]
    assert api.ok("POST", LOGIN, body, token=None)["auth"]["client_token"]


def test_the_flavors_word_a_dead_token_differently():
    """Vault 1.17 names two errors, and answers name the engine."""
    from tests.unit.devserver.conftest import running

    with running(flavor="vault-1.17") as api:
        text = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"
        assert api.refusal("GET", "auth/token/lookup-self", token="dead") == (403, text)
        assert api.ok("GET", "v/creds/x")["mount_type"] == "vending"


class TestAgentCache:
    """A caching agent in front of the server."""

    def test_like_requests_share_an_answer_that_grows_old(self, api):
        """The duration stays, `Age` grows; other headers are another request."""
        with api.server.inject("agent-cache", token=api.root):
            front = Front(api.server.core)
            asked = HttpRequest(method="GET", target="/v1/v/creds/x", headers={"x-vault-token": api.root})
            other = HttpRequest(method="GET", target="/v1/v/creds/x", headers={"x-vault-token": api.root, "a": "b"})
            first = front.handle(asked)
            api.clock.set(api.clock.now() + 4)
            again = front.handle(asked)
            assert (first.headers["X-Cache"], again.headers["X-Cache"], again.headers["Age"]) == ("MISS", "HIT", "4")
            assert first.body == again.body
            assert front.handle(other).body["lease_id"] != first.body["lease_id"]

    def test_renewals_come_from_the_cache_while_the_agent_renews(self, api):
        """The duration never falls, and the lease lives on until its max_ttl."""
        with api.server.inject("agent-cache", token=api.root):
            front = Front(api.server.core)
            lease = front.handle(HttpRequest(method="GET", target="/v1/v/creds/x", headers={"x-vault-token": api.root}))
            body = json.dumps({"lease_id": lease.body["lease_id"]}).encode()
            renew = HttpRequest(
                method="PUT", target="/v1/sys/leases/renew", body=body, headers={"x-vault-token": api.root}
            )
            durations = []
            for _ in range(4):
                durations.append(front.handle(renew).body["lease_duration"])
                api.server.step(5)
            assert durations == [10] * 4
            assert len(api.vending.renewed) >= 2
            api.server.step(20)
            assert front.handle(renew).status == 400

    def test_a_revocation_through_the_agent_forgets(self, api):
        """The next read is a new lease."""
        with api.server.inject("agent-cache", token=api.root):
            front = Front(api.server.core)
            read = HttpRequest(method="GET", target="/v1/v/creds/x")
            lease_id = front.handle(read).body["lease_id"]
            body = json.dumps({"lease_id": lease_id}).encode()
            assert front.handle(HttpRequest(method="PUT", target="/v1/sys/leases/revoke", body=body)).status == 204
            assert front.handle(read).body["lease_id"] != lease_id

    def test_the_agents_own_token_is_not_shown(self, api):
        """auto-auth: who has no token gets the agent's, and never sees it."""
        with api.server.inject("agent-cache", token=api.token(ttl="1h")):
            front = Front(api.server.core)
            looked_up = front.handle(HttpRequest(method="GET", target="/v1/auth/token/lookup-self"))
            assert "id" not in looked_up.body["data"]
            renewed = front.handle(HttpRequest(method="POST", target="/v1/auth/token/renew-self", body=b"{}"))
            assert renewed.body["auth"]["client_token"] == ""

    def test_only_leases_of_tokens_that_the_agent_manages_are_kept(self, api):
        """Its own, and those of logins through it; a login itself is kept, too."""
        with api.server.inject("agent-cache"):
            front = Front(api.server.core)
            read = HttpRequest(method="GET", target="/v1/v/creds/x", headers={"x-vault-token": api.root})
            assert [front.handle(read).headers["X-Cache"] for _ in range(2)] == ["MISS", "MISS"]
            login = api.server.add_approle("app", ["p"])
            api.server.add_policy("p", 'path "v/creds/x" { capabilities = ["read"] }')
            body = json.dumps({"role_id": login.role_id, "secret_id": login.secret_id}).encode()
            log_in = HttpRequest(method="POST", target=f"/v1/{LOGIN}", body=body)
            first, second = (front.handle(log_in) for _ in range(2))
            assert (first.body, second.headers["X-Cache"]) == (second.body, "HIT")
            mine = HttpRequest(
                method="GET", target="/v1/v/creds/x", headers={"x-vault-token": first.body["auth"]["client_token"]}
            )
            assert [front.handle(mine).headers["X-Cache"] for _ in range(2)] == ["MISS", "HIT"]


class TestInput:
    """What a fault can be asked for with."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("slowly", "no fault is called 'slowly'; there are sealed"),
            ("slow,seconds", "the fault slow: 'seconds' is not name=value"),
            ("slow,status=500", "the fault slow has no setting 'status'; it has path, operation, times, "),
            ("slow,seconds=x", "the fault slow: seconds is 'x', not a number of seconds"),
            ("slow,times=-1", "the fault slow: times is '-1', not a whole number"),
            ("slow,after=maybe", "the fault slow: after is 'maybe', not true or false"),
            ("slow,operation=get", "the fault slow: operation is 'get', not read, "),
        ],
    )
    def test_bad_input_is_named(self, text, message):
        """The text says which setting, and what it can be."""
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            faults.parse(text)

    def test_a_text_has_every_setting(self):
        """Kind first, then names and values."""
        fault = faults.parse("slow,path=database/creds,operation=read,times=3,seconds=0.5,after=true")
        expected = {"path": "database/creds", "operation": "read", "times": 3, "seconds": 0.5, "after": True}
        assert fault == faults.check("slow", **expected)

    def test_every_kind_is_in_the_table_with_its_settings(self):
        """The docstring is what users read."""
        for kind in faults.KINDS:
            assert f"`{kind}`" in faults.__doc__, kind


class TestControl:
    """``/devserver/faults``."""

    def ask(self, api, method, target, body=None, token="root"):
        raw = b"" if body is None else json.dumps(body).encode()
        answer = exchange(api, method, target, raw, token)
        return answer.status, answer.body

    def test_faults_come_and_go_over_http(self, api):
        """They are shown with how many met them; these paths meet none."""
        status, made = self.ask(api, "POST", "/devserver/faults", {"fault": "denied", "times": 5})
        assert status == 200
        assert api.ask("GET", "v/creds/x")[0] == 403
        one = f"/devserver/faults/{made['id']}"
        assert self.ask(api, "GET", one)[1]["met"] == 1
        assert [shown["fault"] for shown in self.ask(api, "GET", "/devserver/faults")[1]["faults"]] == ["denied"]
        assert self.ask(api, "DELETE", one) == (204, None)
        assert self.ask(api, "GET", one)[0] == 404
        assert api.ask("GET", "v/creds/x")[0] == 200

    def test_all_end_at_once(self, api):
        """DELETE without an id ends every fault."""
        for kind in ("sealed", "behind"):
            self.ask(api, "POST", "/devserver/faults", {"fault": kind})
        assert self.ask(api, "DELETE", "/devserver/faults")[0] == 204
        assert self.ask(api, "GET", "/devserver/faults") == (200, {"faults": []})

    def test_only_root_may(self, api):
        """Anybody else is refused, whatever the path."""
        assert self.ask(api, "GET", "/devserver/faults", token=api.token("default"))[0] == 403
        assert self.ask(api, "GET", "/devserver/faults", token=None)[0] == 403

    def test_bad_input_is_a_400_that_names_it(self, api):
        """A wrong setting, and a body that is none."""
        status, body = self.ask(api, "POST", "/devserver/faults", {"fault": "slow", "seconds": "x"})
        assert (status, body["errors"]) == (400, ["the fault slow: seconds is 'x', not a number of seconds"])
        assert self.ask(api, "POST", "/devserver/faults", ["slow"])[0] == 400
        assert self.ask(api, "PUT", "/devserver/faults/1", {})[0] == 404
        assert self.ask(api, "PATCH", "/devserver/faults", {})[0] == 405
        assert self.ask(api, "GET", "/devserver/other")[0] == 404
