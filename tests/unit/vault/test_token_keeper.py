"""
The life of a token, in simulated time.
"""

from __future__ import annotations

import contextlib
import math
import threading

import pytest

from tests.unit.vault.fake_vault import BY_POLICY
from vault_pool.core.machine import Owner
from vault_pool.errors import VaultDenied, VaultPoolError, VaultUnavailable


def test_a_token_is_renewed_for_as_long_as_it_can_be_and_then_succeeded(world):
    """Over six hours a token of 60 s, at most an hour, is renewed at two thirds, and a login made once an hour."""
    here = world(ttl=60, max_ttl=3600)
    here.attach()
    here.read()
    assert here.runtime.waiting == 1
    for _ in range(6):
        here.runtime.advance(3600)
        assert here.fake.alive(here.keeper._ledger.current.secret.reveal())
    assert 6 <= here.count("login") <= 8
    assert here.count("renew-self") <= 6 * 3600 / 37
    assert set(here.runtime.lanes) == {(here.keeper._upkeep, "token")}


def test_listeners_hear_of_every_change_of_an_owner(world):
    """A renewal moves the end of the owner, a succession makes it final; each wakes the listeners."""
    here = world(ttl=60, max_ttl=100)
    here.attach()
    lease = here.read().lease
    started = here.runtime.clock.now()
    assert here.role.owner(lease) == Owner(expires_at=started + 60, term=60, final=False)
    woken = here.woken
    here.runtime.advance(41)
    assert here.woken > woken
    assert here.role.owner(lease).expires_at > started + 90
    woken = here.woken
    here.runtime.advance(40)
    assert here.woken > woken
    assert here.role.owner(lease) == Owner(expires_at=started + 100, term=here.role.owner(lease).term, final=True)


def test_no_upkeep_before_the_first_request(world):
    """Attaching does nothing but remember whom to wake."""
    here = world()
    here.attach()
    here.runtime.advance(1e6)
    assert here.http.seen == []


def test_no_lease_is_issued_on_a_dying_token(world):
    """Past half of the life of a token that cannot be renewed, a read logs in first."""
    here = world(ttl=100, renewable=False)
    first = here.read().lease
    here.runtime.clock.instant += 49
    assert here.role.owner(here.read().lease).expires_at == here.role.owner(first).expires_at
    here.runtime.clock.instant += 2
    assert here.role.owner(here.read().lease).expires_at == here.runtime.clock.now() + 100
    assert here.count("login") == 2


def test_renewing_a_lease_does_not_need_a_new_token(world):
    """A dying token is good enough for a renewal: any token may renew any lease."""
    here = world(ttl=100, renewable=False)
    lease = here.read().lease
    here.runtime.clock.instant += 90
    here.role.renew(lease, here.runtime.clock.now())
    assert here.count("login") == 1


def test_an_outage_costs_few_requests_and_ends_by_itself(world):
    """While Vault fails, upkeep backs off; when it is back, the token is renewed as if nothing had been."""
    here = world(ttl=600)
    here.attach()
    here.read()
    here.fake.before = lambda _: (500, {}, {"errors": ["internal error"]})
    seen = len(here.http.seen)
    here.runtime.advance(580)
    assert len(here.http.seen) - seen < 40
    here.fake.before = lambda _: None
    here.runtime.advance(30)
    assert here.fake.alive(here.keeper._ledger.current.secret.reveal())


def test_a_lapsed_token_is_not_reported_dead(world):
    """When time ran out with Vault away, the owner has ended; only Vault's word makes it dead."""
    here = world(ttl=60)
    here.attach()
    lease = here.read().lease
    here.fake.before = lambda _: (503, {}, {"errors": ["Vault is sealed"]})
    here.runtime.advance(100)
    owner = here.role.owner(lease)
    assert owner.expires_at <= here.runtime.clock.now()
    assert not owner.dead
    assert here.runtime.waiting == 0
    here.fake.before = lambda _: None
    here.runtime.advance(30)
    here.read()


def test_a_renewal_that_grants_nothing_is_a_failure(world):
    """204 to renew-self (a deleted user) leads to a new login."""
    here = world(ttl=60)
    here.attach()
    here.read()
    here.fake.before = lambda request: (204, {}, "") if request.path.endswith("renew-self") else None
    here.runtime.advance(45)
    assert here.count("login") == 2


def test_a_cached_renewal_is_not_believed(world):
    """A caching proxy repeats an old renewal; what lookup-self tells counts."""
    here = world(ttl=60)
    here.attach()
    here.read()
    block = {"client_token": "hvs.token-1", "lease_duration": 60, "renewable": True}
    cached = (200, {"X-Cache": "HIT", "Age": "40"}, {"auth": block})
    here.fake.before = lambda request: cached if request.path.endswith("renew-self") else None
    here.runtime.advance(45)
    assert here.count("lookup-self") == 1
    assert here.count("login") == 2


def test_the_last_one_out_revokes_and_leaves_nothing_scheduled(world):
    """Only the last detach ends upkeep and revokes the token; a given one is left alone."""
    here = world()
    here.attach()
    other = here.role.attach(here.runtime, here.read) or here.read
    here.read()
    here.role.detach(other)
    assert here.count("revoke-self") == 0
    here.role.detach(here.wake)
    assert here.count("revoke-self") == 1
    here.runtime.advance(1e5)
    assert here.runtime.waiting == 0
    assert here.fake.living_leases == []


@pytest.mark.parametrize("uses", [2, 3, 5, 50])
def test_uses_are_counted_so_that_no_lease_is_lost(world, uses):
    """Whatever token_num_uses is, renewals of token and leases never spend the last use."""
    here = world(uses=uses, ttl=60)
    here.attach()
    leases = [here.read().lease for _ in range(3)]
    for _ in range(20):
        here.runtime.advance(11)
        for number, lease in enumerate(leases):
            if here.role.owner(lease).final:
                here.role.revoke(lease)
                leases[number] = here.read().lease
            else:
                here.role.renew(lease, here.runtime.clock.now())
    assert sorted(here.fake.living_leases) == sorted(lease.lease_id for lease in leases)


def test_a_given_token_is_never_looked_up_with_its_last_use(world):
    """Looking up costs a use as well: a given token with one use left is not touched."""
    here = world(given={"uses": 3, "ttl": 600})
    lease = here.read().lease
    for _ in range(3):
        with pytest.raises(VaultDenied, match="one use left"):
            here.role.renew(lease, here.runtime.clock.now())
        here.runtime.clock.instant += 31
    assert here.fake.living_leases == [lease.lease_id]


def test_a_given_token_that_cannot_be_renewed_is_only_looked_at(world):
    """Somebody else may renew it: then its owner lives longer; nobody is harmed by looking a few times."""
    here = world(given={"renewable": False, "ttl": 600})
    here.attach()
    lease = here.read().lease
    here.runtime.advance(300)
    here.fake.tokens["hvs.token-1"].ends += 600
    here.runtime.advance(299)
    assert here.role.owner(lease).expires_at > here.runtime.clock.now() + 300
    assert len(here.http.seen) < 10
    assert here.count("revoke-self") == 0


def test_a_given_token_is_renewed_to_what_it_was_created_with(world):
    """A token looked up late in its life is renewed for its creation_ttl, not for what was left."""
    here = world(given={"ttl": 600})
    here.runtime.clock.instant += 500
    here.attach()
    lease = here.read().lease
    here.runtime.advance(90)
    assert here.role.owner(lease).expires_at >= here.runtime.clock.now() + 550


def test_a_dead_token_is_found_out_by_one_lookup_and_one_login(world):
    """Eight threads meet a dead token: one login, and each repeats its read once."""
    here = world()
    lease = here.read().lease
    here.fake.tokens["hvs.token-1"].revoked = True
    start = threading.Barrier(8)
    read = []

    def job():
        start.wait()
        read.append(here.read())

    threads = [threading.Thread(target=job) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert here.role.owner(lease).dead
    assert (len(read), here.count("login")) == (8, 2)


def test_a_token_that_never_works_does_not_make_logins_a_storm(world):
    """A token bound to other addresses is refused right after its login: the next login waits."""
    here = world()
    here.fake.before = lambda request: (
        None if request.path.endswith("login") else (403, {}, {"errors": ["permission denied"]})
    )
    for _ in range(100):
        with pytest.raises(VaultDenied, match=r"token_bound_cidrs|has ended"):
            here.read()
        here.runtime.clock.instant += 1
    assert here.count("login") <= 100 / 15 + 1


def test_a_policy_is_no_reason_to_log_in_again(world):
    """A 403 by policy leaves the token in use."""
    here = world()
    here.fake.before = lambda request: BY_POLICY if "creds" in request.path else None
    for _ in range(5):
        with pytest.raises(VaultDenied, match="capabilities"):
            here.read()
    assert here.count("login") == 1


def test_threads_that_wait_for_a_login_share_its_failure(world):
    """Eight threads, one refused login: each gets the error, nobody tries again at once."""
    here = world()
    here.fake.refuse_logins = (500, {}, {"errors": ["internal error"]})
    start = threading.Barrier(8)
    errors = []

    def job():
        start.wait()
        try:
            here.read()
        except VaultUnavailable as error:
            errors.append(error)

    threads = [threading.Thread(target=job) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(errors), here.count("login")) == (8, 1)
    assert len({id(error) for error in errors}) == 8


@pytest.mark.parametrize(
    "refusal",
    [(400, {}, {"errors": ["invalid role or secret ID"]}), (403, {}, {"errors": ["permission denied"]})],
    ids=["refused", "locked out"],
)
def test_no_login_that_is_refused_can_lock_the_role_out(world, refusal):
    """
    Threads that never stop asking for ten hours send fewer than five logins without a pause of 15 minutes.

    Vault locks the role at the fifth refusal, and forgets earlier ones only after 15 minutes without any.
    """
    here = world()
    here.fake.refuse_logins = refusal
    pauses = []

    def job():
        try:
            here.read()
        except VaultDenied as error:
            pauses.append(error.retry_after)

    for _ in range(10 * 60):
        threads = [threading.Thread(target=job) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        here.runtime.clock.instant += 60
    assert len(pauses) == 3 * 10 * 60
    assert min(pauses) > 0
    assert 2 <= len(here.fake.logins) <= 2 * 36000 / 1020 + 2
    assert longest_row(here.fake.logins) <= 2


def test_new_secret_ids_do_not_lock_the_role_out_either(world, tmp_path):
    """A file that is rewritten with another wrong secret_id every 20 s is tried, yet never five times in a row."""
    from vault_pool.vault.auth import AppRole

    file = tmp_path / "secret_id"
    here = world(auth=AppRole("the-role-id", secret_id_file=file))
    here.fake.refuse_logins = (400, {}, {"errors": ["invalid role or secret ID"]})
    for number in range(1000):
        file.write_text(f"wrong-{number}")
        with contextlib.suppress(VaultDenied):
            here.read()
        here.runtime.clock.instant += 20
    assert longest_row(here.fake.logins) == 4


def longest_row(instants):
    """How many of *instants* follow each other by less than 15 minutes, at most: Vault's own count."""
    longest = row = 0
    last = -math.inf
    for instant in instants:
        row = row + 1 if instant - last <= 900 else 1
        longest, last = max(longest, row), instant
    return longest


def test_a_bug_in_a_login_method_hangs_nobody(world):
    """An error that is not ours passes through, and the next request may log in."""

    class Buggy:
        name, ours = "buggy", True

        def login(self, client):
            raise KeyError("oops")

    here = world(auth=Buggy())
    for _ in range(2):
        with pytest.raises(KeyError):
            here.read()


def test_mfa_is_told_as_such(world):
    """A login that answers with an MFA requirement and no token is a clear error."""
    here = world()
    auth = {"client_token": "", "mfa_requirement": {"mfa_request_id": "x"}}
    here.fake.refuse_logins = (200, {}, {"auth": auth})
    with pytest.raises(VaultDenied, match="second factor"):
        here.read()


def test_a_forked_child_has_its_own_token(world):
    """The child of a fork logs in for itself, and leaves the parent's token alone."""
    import os

    here = world()
    here.read()
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            here.read()
            os.write(writable, str(len(here.fake.leases)).encode() or b"?")
        except VaultPoolError as error:
            os.write(writable, str(error).encode())
        finally:
            os._exit(0)
    os.close(writable)
    os.waitpid(pid, 0)
    with os.fdopen(readable) as pipe:
        assert pipe.read() == "1"  # its copy of the fake knows the parent's lease; the parent's fake answered
    assert here.count("login") == 2
    assert len(here.fake.living_leases) == 2


def test_a_thread_that_comes_late_to_a_login_makes_no_second_one(world):
    """Between finding no token and asking for a login, another thread's login may have come: it is good enough."""
    here = world()
    run = here.keeper._flights.run

    def late(lead):
        here.keeper._flights.run = run
        here.read()
        run(lead)

    here.keeper._flights.run = late
    here.read()
    assert here.count("login") == 1


def test_a_token_with_a_request_on_its_way_is_not_revoked(world):
    """A read that is still waiting for its answer keeps its token, though another thread logged in since."""
    here = world(ttl=100, renewable=False)
    arrived, go_on = threading.Event(), threading.Event()

    def hold(request):
        if "creds" in request.path and not arrived.is_set():
            arrived.set()
            go_on.wait(5)

    here.fake.before = hold
    read = []
    thread = threading.Thread(target=lambda: read.append(here.read().lease))
    thread.start()
    assert arrived.wait(5)
    here.runtime.clock.instant += 60
    here.read()
    go_on.set()
    thread.join()
    assert here.count("login") == 2
    assert here.count("revoke-self") == 0
    assert read[0].lease_id in here.fake.living_leases
    assert here.role.owner(read[0]).final
    here.role.revoke(read[0])
    assert here.count("revoke-self") == 1
