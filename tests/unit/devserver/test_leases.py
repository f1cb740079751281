"""
Leases: renewal, expiry, revocation, and what follows from a token's end.
"""

from __future__ import annotations

import threading

import pytest

FAILED = "failed to revoke entry: resp: (*logical.Response)(nil) err: no"


def renew(api, lease_id, **more):
    return api.ok("PUT", "sys/leases/renew", {"lease_id": lease_id, **more})


def test_a_lease_ends_by_itself(api):
    """At its end a lease is revoked, not before."""
    lease_id = api.lease()
    api.server.step(9.9)
    assert api.vending.revoked == []
    api.server.step(0.2)
    assert api.vending.revoked == [0]
    assert api.refusal("POST", "sys/leases/lookup", {"lease_id": lease_id}) == (400, "invalid lease")


def test_renewals_shrink_towards_the_maximum(api):
    """With max_ttl 30 s a lease renewed every 9 s gets less at the end, with a warning, then lapses."""
    lease_id = api.lease()
    durations = [api.server.step(9) or renew(api, lease_id)["lease_duration"] for _ in range(3)]
    assert durations == [10, 10, 3]
    api.server.step(2)
    assert renew(api, lease_id)["warnings"] == [
        'TTL of "10s" exceeded the effective max_ttl of "1s"; TTL value is capped accordingly'
    ]
    api.server.step(1)
    assert api.vending.revoked == [0]


def test_a_small_increment_shortens_the_lease(api):
    """An increment of one second lets the lease end in one second."""
    renew(api, api.lease(), increment=1)
    api.server.step(1.1)
    assert api.vending.revoked == [0]


def test_a_failed_renewal_leaves_the_lease_as_it_was(api):
    """The engine's failure is a 400 and moves nothing."""
    lease_id = api.lease()
    api.server.step(5)
    api.vending.failure = "no"
    assert api.refusal("PUT", "sys/leases/renew", {"lease_id": lease_id}) == (
        400,
        "failed to renew entry: resp: (*logical.Response)(nil) err: no",
    )
    assert api.ok("PUT", "sys/leases/lookup", {"lease_id": lease_id})["data"]["ttl"] == 5


def test_a_failed_revocation_keeps_the_lease(api):
    """Synchronously refused, a lease keeps its end and can be renewed; force forgets it."""
    lease_id = api.lease()
    api.vending.failure = "no"
    assert api.refusal("PUT", "sys/leases/revoke", {"lease_id": lease_id}) == (400, FAILED)
    prefix = f'failed to revoke "{lease_id}" (1 / 1): {FAILED}'
    assert api.refusal("PUT", "sys/leases/revoke-prefix/v/creds/x") == (400, prefix)
    api.vending.failure = None
    assert renew(api, lease_id)["lease_duration"] == 10
    api.vending.failure = "no"
    api.ok("PUT", "sys/leases/revoke-force/v/creds")
    assert api.refusal("PUT", "sys/leases/renew", {"lease_id": lease_id}) == (400, "lease not found")


def test_revoking_what_is_not_there_succeeds(api):
    """Revocation is idempotent: 204, or 202 for the asynchronous kind."""
    assert api.ask("PUT", "sys/leases/revoke", {"lease_id": "x/y"}) == (204, None)
    assert api.ask("PUT", "sys/leases/revoke", {"lease_id": "x/y", "sync": False}) == (202, None)


def test_asynchronous_revocation_ends_the_lease_at_once_and_the_secret_later(api):
    """Between the answer and the queue's turn the lease is expired."""
    lease_id = api.lease()
    assert api.ask("PUT", "sys/leases/revoke", {"lease_id": lease_id, "sync": False})[0] == 202
    assert api.refusal("PUT", "sys/leases/renew", {"lease_id": lease_id}) == (400, "lease expired")
    assert api.vending.revoked == []
    api.server.step()
    assert api.vending.revoked == [0]


def test_six_failures_make_a_lease_irrevocable(api):
    """The queue tries six times with growing pauses; a revocation by hand still works."""
    lease_id = api.lease()
    api.vending.failure = "no"
    api.server.step(10)
    assert api.refusal("PUT", "sys/leases/renew", {"lease_id": lease_id}) == (400, "lease expired")
    api.server.step(0.5 * (20 + 40 + 80 + 160 + 320) - 1)
    assert api.ok("GET", "sys/leases/count?type=irrevocable")["data"]["lease_count"] == 0
    api.server.step(1.5 * (20 + 40 + 80 + 160 + 320))
    listed = api.ok("GET", "sys/leases?type=irrevocable")["data"]
    assert listed["lease_count"] == 1
    assert listed["leases"][0]["error"] == f"out of retries: {FAILED}"
    assert api.refusal("PUT", "sys/leases/renew", {"lease_id": lease_id}) == (
        400,
        "lease is expired and has failed previous revocation attempts",
    )
    api.vending.failure = None
    api.ok("PUT", "sys/leases/revoke", {"lease_id": lease_id})
    assert api.vending.revoked == [0]


def test_the_queue_tries_again(api):
    """One failure in the background is made good within half a minute."""
    api.lease()
    api.vending.failure = "no"
    api.server.step(10)
    api.vending.failure = None
    api.server.step(30)
    assert api.vending.revoked == [0]


def test_leases_die_with_the_token_that_issued_them(api, policy):
    """Whoever renewed it, a lease ends with its issuer; the other token's lease lives."""
    api.server.add_policy("app", policy)
    first, second = api.token("app"), api.token("app")
    lease_id, other = api.lease(first), api.lease(second)
    api.ok("POST", "sys/leases/renew", {"lease_id": lease_id}, token=second)
    assert api.ask("POST", "auth/token/revoke-self", token=first)[0] == 204
    assert api.refusal("PUT", "sys/leases/renew", {"lease_id": lease_id}) == (400, "lease expired")
    api.server.step()
    assert api.vending.revoked == [0]
    assert api.refusal("PUT", "sys/leases/renew", {"lease_id": lease_id}) == (400, "lease not found")
    renew(api, other)


def test_an_expired_token_takes_its_leases_along(api, policy):
    """A service token does not cap the duration of its leases, but its end is theirs."""
    api.server.add_policy("app", policy)
    token = api.token("app", ttl="4s")
    assert api.ok("GET", "v/creds/x", token=token)["lease_duration"] == 10
    api.server.step(4.1)
    assert api.vending.revoked == [0]


def test_a_batch_token_caps_its_leases(api, policy):
    """The lease of a batch token ends with it, at issue and after renewals."""
    api.server.add_policy("app", policy)
    token = api.token("app", type="batch", ttl="6s")
    issued = api.ok("GET", "v/creds/x", token=token)
    assert issued["lease_duration"] == 6
    api.server.step(3)
    assert renew(api, issued["lease_id"])["lease_duration"] == 2
    api.server.step(3)
    assert api.vending.revoked == [0]


def test_the_last_use_of_a_token_returns_no_secret(api, policy):
    """What was issued with the last use is revoked at once, and so are the leases before it."""
    api.server.add_policy("app", policy)
    token = api.token("app", num_uses=2)
    api.lease(token)
    assert api.refusal("GET", "v/creds/x", token=token) == (
        400,
        "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked.",
    )
    assert api.refusal("GET", "v/creds/x", token=token) == (403, "permission denied")
    api.server.step()
    assert sorted(api.vending.revoked) == [0, 1]


def test_a_token_that_dies_while_a_secret_is_made_gets_none(api, policy):
    """The secret made for a token that was revoked meanwhile is revoked, not returned."""
    api.server.add_policy("app", policy)
    token = api.token("app")
    api.vending.on_issue = lambda: api.ok("POST", "auth/token/revoke", {"token": token})
    assert api.refusal("GET", "v/creds/x", token=token) == (403, "permission denied")
    api.server.step()
    assert api.vending.revoked == [0]


def test_a_revocation_waits_for_a_renewal_and_then_wins(api):
    """A lease that was condemned while it was being renewed is not brought back to life."""
    lease_id = api.lease()
    entered, go_on, answers = threading.Event(), threading.Event(), []
    engine_renew = api.vending.renew

    def slow(*arguments):
        entered.set()
        assert go_on.wait(10)
        return engine_renew(*arguments)

    api.vending.renew = slow
    thread = threading.Thread(target=lambda: answers.append(api.ask("PUT", "sys/leases/renew", {"lease_id": lease_id})))
    thread.start()
    assert entered.wait(10)
    api.ok("PUT", "sys/leases/revoke", {"lease_id": lease_id, "sync": False})
    go_on.set()
    thread.join()
    assert answers == [(400, {"errors": ["lease expired"]})]
    api.server.step()
    assert api.vending.revoked == [0]


def test_an_expiry_that_falls_due_while_sealed_waits(api):
    """Sealed, nothing is revoked; unsealed, it is."""
    api.lease()
    api.server.seal()
    api.server.step(100)
    assert api.vending.revoked == []
    api.server.unseal()
    api.server.step()
    assert api.vending.revoked == [0]


def test_unmounting_revokes_first_and_stays_tainted_on_failure(api):
    """A mount whose leases cannot be revoked stays behind and answers nobody."""
    api.lease()
    api.vending.failure = "no"
    assert api.refusal("DELETE", "sys/mounts/v")[0] == 400
    assert api.refusal("GET", "v/creds/x") == (
        404,
        'no handler for route "v/creds/x" on namespace "". route entry or namespace is tainted.',
    )
    api.vending.failure = None
    api.ok("DELETE", "sys/mounts/v")
    assert api.vending.revoked == [0]
    assert api.refusal("GET", "v/creds/x") == (404, 'no handler for route "v/creds/x". route entry not found.')


@pytest.mark.parametrize("path", ["sys/renew", "sys/leases/renew"])
def test_vault_knows_the_old_paths(vault_api, path):
    """Vault renews at sys/renew as well."""
    assert renew_at(vault_api, path)["lease_duration"] == 10


def renew_at(api, path):
    return api.ok("PUT", path, {"lease_id": api.lease()})


def test_openbao_forgot_the_old_paths(api):
    """OpenBao 2.5.4 removed sys/renew."""
    assert api.refusal("PUT", "sys/renew", {"lease_id": "x"}) == (404, "1 error occurred:\n\t* unsupported path\n\n")
