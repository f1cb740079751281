"""
The timing rules, one by one, with the numbers worked out by hand.

Every function here checks one fact on the *core* that it is given: the real one, or an altered one that must fail.
Instants are small whole numbers, so the arithmetic is exact; T is when the life begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

T = 1000.0
CHECKS: list[Callable[[Any], None]] = []


def check(fn: Callable[[Any], None]) -> Callable[[Any], None]:
    CHECKS.append(fn)
    return fn


class Machine:
    """A state, and the short words for what happens to it."""

    def __init__(self, core: Any, **policy: Any) -> None:
        self.core = core
        self.policy = core.RenewalPolicy(**policy)
        self.state = core.LeaseState()
        self.ended: list[Any] = []

    def tell(self, event: Any, at: float) -> Machine:
        self.state = self.core.advance(self.state, event, T + at, self.policy)
        return self

    def issue(
        self,
        duration: float,
        *,
        at: float = 0,
        sent: float | None = None,
        draw: float = 0.0,
        renewable: bool = True,
        **owner: Any,
    ) -> Machine:
        if "expires_at" in owner:
            owner["expires_at"] += T
        stamp = T + (at if sent is None else sent)
        lease = self.core.Lease.issued("lease", duration, stamp, renewable=renewable)
        return self.tell(self.core.Issued(lease, self.core.Owner(**owner), draw), at)

    def owner(self, at: float, **owner: Any) -> Machine:
        if "expires_at" in owner:
            owner["expires_at"] += T
        return self.tell(self.core.OwnerChanged(self.core.Owner(**owner)), at)

    def send(self, at: float) -> Machine:
        return self.tell(self.core.Sent(), at)

    def renew(self, duration: float, at: float, *, sent: float | None = None, draw: float = 0.0) -> Machine:
        sent = at if sent is None else sent
        return self.send(sent).tell(self.core.Renewed(duration, T + sent, draw), at)

    def fail(self, at: float, draw: float = 1.0, **how: Any) -> Machine:
        return self.send(at).tell(self.core.Failed(draw, **how), at)

    def by_hand(self, at: float) -> Machine:
        return self.tell(self.core.RotationRequested(), at)

    def lose(self, at: float) -> Machine:
        return self.tell(self.core.Lost(), at)

    def lapse(self, at: float) -> Machine:
        return self.tell(self.core.Lapsed(), at)

    def succeed(self, at: float) -> Machine:
        return self.tell(self.core.Succeeded(), at)

    def drain(self, at: float) -> Machine:
        return self.tell(self.core.Drained(), at)

    def at(self, now: float) -> str:
        return type(self.core.decide(self.state, T + now, self.policy)).__name__

    def wait(self, now: float) -> float:
        """Return until when there is nothing to do, counted from T."""
        action = self.core.decide(self.state, T + now, self.policy)
        assert isinstance(action, self.core.Wait), action
        return action.until - T

    @property
    def phase(self) -> str:
        return self.state.phase.value


def near(value: float) -> Any:
    return pytest.approx(value, abs=1e-6)


# --- when to renew, when to rotate -------------------------------------------------------------------------


@check
def a_new_life_begins_with_a_read(core: Any) -> None:
    """Nothing to serve with: read at once."""
    assert Machine(core).at(0) == "Read"


@check
def renews_at_two_thirds(core: Any) -> None:
    """3600 s of 86400: renewed after 2400 s, or up to a tenth of that earlier, never later."""
    assert Machine(core).issue(3600).wait(1) == near(2400)
    assert Machine(core).issue(3600, draw=0.5).wait(1) == near(2280)
    assert Machine(core).issue(3600, draw=1.0).wait(1) == near(2160)
    life = Machine(core).issue(3600)
    assert (life.at(2399), life.at(2400)) == ("Wait", "Renew")
    assert life.renew(3600, 2400).wait(2401) == near(4800)


@check
def counts_from_the_request(core: Any) -> None:
    """An answer that took 5 s leaves 5 s less."""
    life = Machine(core).issue(60, at=5, sent=0)
    assert life.wait(6) == near(40)
    assert life.state.deadline == T + 60
    life.renew(60, 48, sent=40)
    assert (life.wait(49), life.state.deadline) == (near(80), T + 100)


@check
def six_of_twelve(core: Any) -> None:
    """TTL 6, max 12, as Vault answers it: 6, 6, then 4 of 6 is the truth, and the successor is read at once."""
    life = Machine(core).issue(6)
    assert life.wait(0) == near(4)
    assert life.renew(6, 4).wait(4) == near(8)
    life.renew(4, 8)
    assert (life.phase, life.at(8)) == ("final", "Read")
    assert life.state.deadline == T + 12


@check
def one_second_less_is_truncated(core: Any) -> None:
    """Vault floors both instants; what it grants short of the increment by one second is the end in sight."""
    assert Machine(core).issue(6).renew(5, 4).at(4) == "Read"
    assert Machine(core).issue(3600).renew(3599, 2400).at(2400) == "Read"


@check
def less_than_before_is_truncated(core: Any) -> None:
    """A grant that shrinks has met a limit, also while it is more than was asked."""
    life = Machine(core).issue(60).renew(100, 40)
    assert (life.phase, life.wait(41)) == ("active", near(40 + 100 * 2 / 3))
    assert life.state.lease.increment == 60
    assert life.renew(80, 100).at(100) == "Read"


@check
def less_than_was_asked_is_truncated(core: Any) -> None:
    """A token that was given to us late asks for its first term, and gets more than it had, but not that."""
    life = Machine(core)
    lease = replace(core.Lease.issued("lease", 60, T), increment=100)
    life.tell(core.Issued(lease, core.Owner(), 0.0), 0)
    assert life.renew(99, 40).at(40) == "Read"


@check
def default_equal_to_max(core: Any) -> None:
    """Where nothing can be added, the first renewal tells, with a third left."""
    life = Machine(core).issue(3600).renew(1200, 2400)
    assert (life.phase, life.at(2400), life.state.deadline) == ("final", "Read", T + 3600)


@check
def not_renewable_rotates_at_two_thirds(core: Any) -> None:
    """Its whole life is known."""
    life = Machine(core).issue(3600, renewable=False)
    assert (life.phase, life.wait(1), life.at(2400)) == ("final", near(2400), "Read")


@check
def leases_of_one_to_three_seconds(core: Any) -> None:
    """However short: not before half, and a third is left."""
    for duration in (1, 2, 3):
        for draw in (0.0, 0.999):
            until = Machine(core).issue(duration, draw=draw, renewable=False).wait(0)
            assert duration / 2 <= until <= duration * 2 / 3 + 1e-6


@check
def at_most_a_third_is_set_aside(core: Any) -> None:
    """30 s where there is room, a third of the term where there is not; half of the lease has passed by then."""
    assert core.rotate_by(Machine(core).issue(3600).state, core.RenewalPolicy()) == near(T + 3570)
    assert core.rotate_by(Machine(core).issue(60).state, core.RenewalPolicy()) == near(T + 40)
    assert core.rotate_by(Machine(core).issue(6).state, core.RenewalPolicy()) == near(T + 4)
    assert core.rotate_by(core.LeaseState(), core.RenewalPolicy()) == math.inf
    long = core.RenewalPolicy(retire_timeout=1000)
    assert core.rotate_by(Machine(core).issue(3600).state, long) == near(T + 2600)


# --- the token that issued it ------------------------------------------------------------------------------


@check
def the_deadline_is_the_tokens(core: Any) -> None:
    """A lease of an hour under a token of 20 s is worth 20 s."""
    life = Machine(core).issue(3600, expires_at=20, term=20)
    assert life.state.deadline == T + 20
    # A sixth is kept: the token is renewed at 13.3 s, and that comes first.
    assert life.wait(1) == near(20 - 20 / 6)
    assert life.at(17) == "Read"
    assert life.at(20) == "Lapse"


@check
def a_final_token_leaves_a_third(core: Any) -> None:
    """What nobody will renew is treated as the lease's own end."""
    life = Machine(core).issue(3600, expires_at=20, term=3600, final=True)
    assert (life.phase, life.wait(1), life.at(14)) == ("final", near(20 * 2 / 3), "Read")


@check
def a_final_token_with_time_left_lets_renew(core: Any) -> None:
    """A lease that ends long before its token is renewed, not replaced."""
    life = Machine(core).issue(3600, expires_at=86400, term=86400, final=True)
    assert (life.phase, life.at(2400)) == ("active", "Renew")
    life.owner(2400, expires_at=5000, term=86400, final=True).renew(3600, 2400)
    assert (life.phase, life.wait(2401)) == ("final", near(2400 + 2600 * 2 / 3))


@check
def a_token_that_is_renewed_gives_time(core: Any) -> None:
    """Later news of the token moves the moment, also for what cannot be renewed itself."""
    for renewable in (True, False):
        life = Machine(core).issue(3600, renewable=renewable, expires_at=20, term=20)
        life.owner(14, expires_at=34, term=20)
        assert life.wait(15) == near(34 - 20 / 6)
        assert life.owner(28, expires_at=math.inf).wait(29) == near(2400)


@check
def a_token_that_will_end_sooner_takes_time(core: Any) -> None:
    """Known to be final at half time: rotated after two thirds of what there is; and at once when that has passed."""
    life = Machine(core).issue(3600, expires_at=7200, term=7200)
    assert life.owner(100, expires_at=300, term=7200, final=True).wait(101) == near(200)
    assert life.owner(210, expires_at=270, term=7200, final=True).at(210) == "Read"


@check
def more_for_the_lease_is_nothing_under_a_late_token(core: Any) -> None:
    """At the token's turn a lease that outlives it is read anew; one that does not is renewed."""
    assert Machine(core).issue(3600, expires_at=3000, term=3000).at(2990) == "Read"
    assert Machine(core).issue(3600, expires_at=3000, term=3000).at(2500) == "Renew"
    assert Machine(core).issue(3600, expires_at=3601, term=3601).at(3599) == "Renew"


@check
def a_read_that_fails_for_the_tokens_sake_is_forgotten(core: Any) -> None:
    """The token came back in time: the lease is renewed again, not replaced."""
    life = Machine(core).issue(86400, expires_at=3600, term=3600).fail(3590, draw=0.5)
    assert life.phase == "active"
    life.owner(3591, expires_at=7200, term=3600)
    assert life.at(3591) == "Renew"


@check
def a_dead_token_takes_its_leases(core: Any) -> None:
    """Dead is lost, whatever the lease says; also when the owner was known to be dead when it came."""
    life = Machine(core).issue(3600).owner(10, dead=True)
    assert (life.phase, life.state.lease, life.at(10)) == ("vacant", None, "Read")
    life = Machine(core).issue(3600, dead=True).owner(1, dead=True)
    assert life.phase == "vacant"
    assert Machine(core).issue(3600).succeed(5).owner(10, dead=True).phase == "ended"


@check
def no_news_of_the_token_is_no_event(core: Any) -> None:
    """The same owner again changes nothing, nor does any owner of nothing."""
    life = Machine(core).issue(3600, expires_at=20, term=20)
    before = life.state
    assert life.owner(3, expires_at=20, term=20).state == before
    assert Machine(core).owner(3, expires_at=20).state == core.LeaseState()


@check
def news_of_the_token_does_not_cut_a_pause_short(core: Any) -> None:
    """While requests fail, an owner that changes hurries nothing but what would be too late."""
    life = Machine(core).issue(3600, renewable=False, expires_at=9000, term=9000)
    for at in range(2400, 2408):
        life.fail(at, draw=0.999)
    due = life.wait(2408)
    assert due > 2420
    assert life.owner(2408, expires_at=9001, term=9000).wait(2408) == near(due)
    assert life.owner(2409, expires_at=2415, term=9000, final=True).wait(2409) == near(2415)


# --- failures ----------------------------------------------------------------------------------------------


@check
def backs_off(core: Any) -> None:
    """0.5, 1, 2, 4, 8, 16, 30, 30 s at most, any part of it by the draw."""
    life, at = Machine(core), 0.0
    for ceiling in (0.5, 1, 2, 4, 8, 16, 30, 30, 30):
        half = Machine(core)
        half.state = life.state
        assert half.fail(at, draw=0.5).wait(at) == near(at + ceiling / 2)
        at = life.fail(at, draw=1.0).wait(at)
        assert life.at(at) == "Read"
    assert at == near(121.5)


@check
def what_somebody_has_to_mend_is_tried_slowly(core: Any) -> None:
    """15 to 30 s, spread, from the first failure on: five bad logins lock an AppRole for everybody."""
    assert Machine(core).fail(0, draw=0.0, retryable=False).wait(0) == near(15)
    assert Machine(core).fail(0, draw=1.0, retryable=False).wait(0) == near(30)
    life = Machine(core).issue(3600, renewable=False).fail(2400, draw=0.0, retryable=False)
    assert life.wait(2400) == near(2415)


@check
def a_failed_renewal_is_tried_again(core: Any) -> None:
    """400 is not the end: the database may be down."""
    life = Machine(core).issue(3600).fail(2400)
    assert (life.phase, life.wait(2400), life.at(2401)) == ("active", near(2400.5), "Renew")
    life.fail(2401).fail(2402)
    assert life.renew(3600, 2410).fail(4810).wait(4810) == near(4810.5)


@check
def a_refused_renewal_makes_way_for_a_read(core: Any) -> None:
    """At once; and nothing asks for that renewal again."""
    life = Machine(core).issue(3600).fail(2400, retryable=False)
    assert (life.phase, life.at(2400)) == ("final", "Read")
    assert life.fail(2400).at(2401) == "Read"
    assert math.isinf(life.succeed(2402).state.due)


@check
def retries_end_at_the_turn(core: Any) -> None:
    """Renewing is tried until waiting would take the successor's time; then, at that moment, a read."""
    life = Machine(core).issue(60, draw=1.0)
    for at in (36, 36.5, 37.5):
        life.fail(at)
    assert life.phase == "active"
    life.fail(39.5)
    assert (life.phase, life.wait(39.5), life.at(40)) == ("final", near(40), "Read")


@check
def a_read_is_tried_until_the_end(core: Any) -> None:
    """No pause goes past the turn, nor, after it, past half of what is left, nor past the deadline."""
    life = Machine(core).issue(3600, renewable=False)
    for at in range(2400, 2410):
        life.fail(at)
    assert life.fail(3560).wait(3560) == near(3570)
    assert life.fail(3571).wait(3571) == near(3585.5)
    assert life.fail(3586).wait(3586) == near(3593)
    assert life.fail(3599.8).wait(3599.8) == near(3600)
    assert life.at(3600) == "Lapse"
    assert life.lapse(3600).at(3600) == "Read"


@check
def a_failure_discards_nothing(core: Any) -> None:
    """Whatever fails, the credential stays what it is until its end."""
    for retryable in (True, False):
        life = Machine(core).issue(3600)
        for at in range(2400, 3600, 10):
            life.fail(at, draw=0.01, retryable=retryable)
            assert life.state.serving
            assert life.state.lease.lease_id == "lease"
            assert life.state.deadline == T + 3600


@check
def what_vault_forbids_is_not_sent(core: Any) -> None:
    """retry_after holds when it is too late, when somebody asks by hand, and when the credential is lost."""
    life = Machine(core).issue(60, renewable=False).fail(41, retry_after=900)
    assert life.wait(41) == near(60)
    assert life.by_hand(42).wait(42) == near(60)
    assert life.lapse(60).wait(60) == near(941)
    assert life.lose(61).wait(61) == near(941)
    assert life.at(941) == "Read"
    life = Machine(core).issue(60).fail(41, retry_after=900).lose(42)
    assert life.wait(42) == near(941)


@check
def the_allowance_holds(core: Any) -> None:
    """30 at once, then two a second, whatever happens; also beyond the deadline."""
    life = Machine(core).issue(5)
    for _ in range(30):
        life.send(1).tell(core.Failed(0.0), 1)
        life.lose(1).issue(5, at=1)
    assert life.lose(1).wait(1) == near(1.5)
    assert life.at(1.5) == "Read"
    assert life.by_hand(1.2).wait(1.2) == near(1.5)
    life.issue(0.2, at=1.2).lapse(1.45)
    assert life.wait(1.45) == near(1.5)


@check
def the_allowance_fills_up_again(core: Any) -> None:
    """To the burst and no further."""
    life = Machine(core, burst=2, requests_per_hour=3600)
    for at in (0, 0, 10, 10):
        life.send(at).tell(core.Failed(0.0), at)
    assert life.wait(10) == near(11)


@check
def a_lease_that_was_over_before_it_came(core: Any) -> None:
    """Reading again at once would get the same, and a database role each time."""
    life = Machine(core).issue(5, at=7, sent=0, draw=0.5)
    assert life.at(7) == "Lapse"
    assert life.lapse(7).wait(7) == near(7.25)
    assert life.issue(5, at=14, sent=8, draw=0.5).lapse(14).wait(14) == near(14.5)


# --- one request at a time ---------------------------------------------------------------------------------


@check
def one_request_at_a_time(core: Any) -> None:
    """While one is on its way there is none to send, however late it is."""
    life = Machine(core).send(0)
    assert [life.at(now) for now in (0, 59, 61, 4000)] == ["Wait"] * 4
    life = Machine(core).issue(3600).send(2400)
    assert life.wait(2400) == near(2460)
    assert life.wait(3590) == near(3600)
    assert life.at(3600) == "Lapse"
    assert life.lapse(3600).at(3600) == "Wait"


@check
def a_read_survives_the_loss(core: Any) -> None:
    """The read on its way brings the successor; a second one would orphan a role."""
    life = Machine(core).issue(60, renewable=False).send(41).lose(42)
    assert life.at(42) == "Wait"
    assert life.tell(core.Renewed(60, T + 41, 0.0), 43).at(43) == "Wait"
    assert life.issue(60, at=44).phase == "active"
    life = Machine(core).issue(60, renewable=False).send(41).tell(core.Renewed(60, T + 40, 0.0), 42)
    assert (life.at(42), life.state.deadline) == ("Wait", T + 60)


@check
def a_renewal_does_not_delay_recovery(core: Any) -> None:
    """It may hang for long, and means nothing any more."""
    life = Machine(core).issue(60).send(40).lose(41)
    assert life.at(41) == "Read"


@check
def a_renewal_that_fails_after_the_end_delays_nothing(core: Any) -> None:
    """Its failure says nothing about the read that is wanted by now."""
    life = Machine(core).issue(60).send(50).lapse(60).tell(core.Failed(1.0, retryable=False), 61)
    assert life.at(61) == "Read"
    life = Machine(core).issue(60).succeed(30).send(40).drain(41).tell(core.Failed(1.0, retryable=False), 42)
    assert life.at(42) == "Revoke"


@check
def a_renewal_that_comes_after_the_end_revives(core: Any) -> None:
    """Vault granted it, so the credential lives."""
    life = Machine(core).issue(60).send(59).lapse(60).tell(core.Renewed(60, T + 59, 0.0), 61)
    assert (life.phase, life.state.deadline) == ("active", T + 119)


@check
def sent_twice_counts_twice(core: Any) -> None:
    """Two requests left: the allowance knows."""
    life = Machine(core, burst=3).send(0).send(0)
    assert life.state.allowance == 1
    assert life.tell(core.Failed(0.0), 0).send(0).tell(core.Failed(0.0), 0).wait(0) == near(0.5)


# --- by hand, lost, late -----------------------------------------------------------------------------------


@check
def by_hand_is_now(core: Any) -> None:
    """In every phase that serves or wants to."""
    assert Machine(core).issue(3600).by_hand(10).at(10) == "Read"
    assert Machine(core).issue(3600, renewable=False).by_hand(10).at(10) == "Read"
    life = Machine(core).fail(0).fail(1).fail(2).by_hand(2.5)
    assert life.at(2.5) == "Read"
    assert Machine(core).issue(10).lapse(10).fail(10).by_hand(10.1).at(10.1) == "Read"
    life = Machine(core).issue(10).by_hand(10).lapse(10).fail(10, draw=1)
    assert life.by_hand(10.2).at(10.2) == "Read"


@check
def by_hand_while_renewing(core: Any) -> None:
    """The renewal's answer does not undo the wish."""
    for answer in (core.Renewed(3600, T + 2400, 0.0), core.Failed(0.0), core.Failed(0.0, retryable=False)):
        life = Machine(core).issue(3600).send(2400).by_hand(2401).tell(answer, 2402)
        assert life.at(2402) == "Read"
    # It is a wish of this lease; its successor has none.
    assert life.issue(3600, at=2403).renew(3600, 4803).wait(4804) == near(7203)


@check
def by_hand_of_what_is_over_already(core: Any) -> None:
    """There is nothing left to succeed."""
    for life in (Machine(core).issue(60).succeed(1), Machine(core).issue(60).succeed(1).drain(2)):
        before = life.state
        assert life.by_hand(3).state == before


@check
def a_rotation_that_cannot_be_had_costs_nothing(core: Any) -> None:
    """Somebody asked, and reading is refused: the lease is renewed meanwhile, by turns, and lives on."""
    life = Machine(core).issue(3600).by_hand(10).fail(10, retryable=False)
    assert life.at(2000) == "Read"
    assert life.at(2400) == "Renew"
    life.renew(3600, 2400)
    assert (life.phase, life.state.deadline, life.at(2401)) == ("final", T + 6000, "Read")
    assert life.fail(2401).at(2403) == "Read"
    assert life.at(4800) == "Renew"
    assert life.fail(4800).at(4802) == "Read"


@check
def a_renewal_by_turns_ends_the_emergency(core: Any) -> None:
    """Nobody asked for a rotation: with its full time again the lease is not replaced early."""
    life = Machine(core).issue(60, draw=1.0).fail(39.9).fail(40, draw=0.1)
    assert (life.phase, life.at(41)) == ("final", "Renew")
    assert life.renew(60, 41).phase == "active"


@check
def lost_is_read_anew_at_once(core: Any) -> None:
    """Once: hearing it again does not cut the pause after a failed read short."""
    life = Machine(core).issue(3600).lose(100)
    assert (life.state.lease, life.at(100)) == (None, "Read")
    for at in (100, 101, 102):
        life.fail(at)
    assert life.lose(102.5).wait(102.5) == near(104)
    # Also after its end: whoever dropped the role is back.
    life = Machine(core).issue(10, renewable=False).lapse(10).fail(10).fail(11).lose(11.5)
    assert life.at(11.5) == "Read"
    assert life.fail(11.5).fail(12).lose(12.5).wait(12.5) == near(13)


@check
def a_lapse_that_is_not_is_none(core: Any) -> None:
    """News that the deadline passed may be older than the renewal that moved it."""
    assert Machine(core).issue(60).lapse(59).phase == "active"
    assert Machine(core).issue(60).succeed(1).lapse(59).phase == "retiring"
    assert Machine(core).lapse(59).phase == "vacant"


@check
def a_lease_that_is_revoked_in_service_is_lost(core: Any) -> None:
    """It must be succeeded, not forgotten."""
    assert Machine(core).issue(60).tell(core.Revoked(), 1).at(1) == "Read"


# --- the life after ----------------------------------------------------------------------------------------


@check
def a_retired_lease_is_kept_alive(core: Any) -> None:
    """While sessions are out it is renewed as ever; then it is revoked, and that is the end."""
    life = Machine(core).issue(3600).by_hand(10).succeed(11)
    assert (life.phase, life.wait(11), life.at(2400)) == ("retiring", near(2400), "Renew")
    life.renew(3600, 2400)
    assert (life.phase, life.wait(2401)) == ("retiring", near(4800))
    assert life.drain(2500).at(2500) == "Revoke"
    assert life.send(2500).tell(core.Revoked(), 2501).phase == "ended"
    assert math.isinf(life.wait(2502))


@check
def a_retired_lease_that_cannot_live_longer_ends(core: Any) -> None:
    """Nothing to ask for: it is waited for, and then over."""
    for life in (
        Machine(core).issue(60, renewable=False),
        Machine(core).issue(60).renew(50, 40),
        Machine(core).issue(60).fail(40, retryable=False),
        Machine(core).issue(90, expires_at=60, term=60, final=True),
    ):
        life.succeed(42)
        assert life.wait(42) == near(life.state.deadline - T)
        end = life.state.deadline - T
        assert life.at(end) == "Lapse"
        assert life.lapse(end).phase == "ended"


@check
def a_retired_lease_follows_its_token(core: Any) -> None:
    """A token that lives on lets it be renewed; one that does not ends the asking."""
    life = Machine(core).issue(60, expires_at=50, term=50).succeed(10)
    assert life.wait(10) == near(40)
    assert life.owner(20, expires_at=50, term=50, final=True).wait(20) == near(50)
    assert life.owner(21, expires_at=500, term=50).wait(21) == near(40)


@check
def a_retired_lease_retries_until_its_end(core: Any) -> None:
    """Renewals that fail are tried again; a refusal ends the asking."""
    life = Machine(core).issue(60).succeed(10).fail(40)
    assert (life.wait(40), life.at(41)) == (near(40.5), "Renew")
    assert life.fail(41, retryable=False).wait(41) == near(60)


@check
def a_renewal_on_its_way_may_save_a_retired_lease(core: Any) -> None:
    """Its sessions do not wait for anybody: the answer is heard before it is given up."""
    life = Machine(core).issue(60).succeed(10).send(59)
    assert life.wait(60) == near(120)
    assert life.tell(core.Renewed(60, T + 59, 0.0), 61).wait(61) == near(99)


@check
def revoking_is_retried(core: Any) -> None:
    """The last session may still be on its way out (2BP01). What Vault forbids for good is left to lapse."""
    life = Machine(core).issue(60).succeed(1).drain(2).fail(2)
    assert (life.wait(2), life.at(3)) == (near(2.5), "Revoke")
    assert life.fail(3, retryable=False).wait(3) == near(60)
    assert life.lapse(60).phase == "ended"


@check
def drained_while_renewing(core: Any) -> None:
    """The longer term is known, so that it is not given up before it is over; and it is revoked."""
    life = Machine(core).issue(60).succeed(10).send(40).drain(41)
    assert life.at(41) == "Wait"
    life.tell(core.Renewed(60, T + 40, 0.0), 42)
    assert (life.phase, life.at(42), life.state.deadline) == ("revoking", "Revoke", T + 100)


@check
def what_comes_late_revives_nothing(core: Any) -> None:
    """A lease that was succeeded never serves again, and what has ended stays ended."""
    events = [
        core.Sent(),
        core.Issued(core.Lease.issued("other", 60, T), core.Owner(), 0.0),
        core.Renewed(60, T + 40, 0.0),
        core.Renewed(6, T + 40, 0.0),
        core.Failed(0.5),
        core.Failed(0.5, retryable=False),
        core.RotationRequested(),
        core.Succeeded(),
        core.Drained(),
        core.OwnerChanged(core.Owner(expires_at=T + 50, term=9, final=True)),
        core.Lapsed(),
        core.Lost(),
        core.Revoked(),
    ]
    after = {"retiring", "revoking", "ended"}
    for first in events:
        for second in events:
            for life in (Machine(core).issue(60).succeed(1), Machine(core).issue(60).succeed(1).drain(2)):
                life.tell(first, 41).tell(second, 42)
                assert life.phase in after
                assert life.state.lease.lease_id == "lease"
    ended = Machine(core).issue(60).succeed(1).lose(2)
    for event in events:
        assert replace(ended.state) == ended.tell(event, 50).state
        assert ended.phase == "ended"


@check
def drained_means_something_only_when_retiring(core: Any) -> None:
    """And succeeded only for what has a lease and was not succeeded yet."""
    assert Machine(core).issue(60).drain(1).phase == "active"
    assert Machine(core).succeed(1).phase == "vacant"
    life = Machine(core).issue(60).succeed(1).drain(2)
    assert life.succeed(3).phase == "revoking"


# --- tokens and ends that never come -----------------------------------------------------------------------


@check
def a_token_lives_by_the_same_rules(core: Any) -> None:
    """Renewed at two thirds; when that is truncated, a login; the old one is kept for its leases."""
    token = Machine(core).issue(3600).renew(3600, 2400).renew(1800, 4800)
    assert (token.phase, token.at(4800)) == ("final", "Read")
    token.succeed(4801)
    assert token.wait(4801) == near(6600)


@check
def a_periodic_token_is_never_rotated(core: Any) -> None:
    """It is granted its period for ever."""
    token, at = Machine(core).issue(3600), 0.0
    for _ in range(100):
        at += 2400
        assert token.renew(3600, at).phase == "active"


@check
def a_token_without_an_end(core: Any) -> None:
    """Nothing to do, for ever; and no arithmetic breaks on it."""
    token = Machine(core).issue(math.inf, renewable=False)
    assert math.isinf(token.wait(1e9))
    assert token.by_hand(5).at(5) == "Read"


# --- what is looked at -------------------------------------------------------------------------------------


def looked(core: Any, duration: float = 60.0, *, at: float = 0.0, spread: float = 0.0, version: str = "v1") -> Any:
    """Return the term of a credential without a lease."""
    return core.Lease.looked_up(version, duration, T + at, spread=spread)


def looking(core: Any, duration: float = 60.0, *, spread: float = 0.0, draw: float = 0.0, **policy: Any) -> Machine:
    """Return a life of such a credential, which was found at 0."""
    life = Machine(core, **policy).send(0)
    return life.tell(core.Issued(looked(core, duration, spread=spread), core.Owner(), draw), 0)


@check
def looks_again_when_the_source_says(core: Any) -> None:
    """After its duration, and up to its spread more; counted from the request; a read, never a renewal."""
    assert looking(core).wait(1) == near(60)
    assert looking(core, 11, spread=5, draw=0.5).wait(1) == near(13.5)
    assert looking(core, 11, spread=5, draw=1.0).wait(1) == near(16)
    life = looking(core)
    assert (life.phase, life.at(59), life.at(60)) == ("active", "Wait", "Read")
    assert life.send(60).tell(core.Unchanged(looked(core, at=60), 0.0), 65).wait(65) == near(120)


@check
def what_is_looked_at_has_no_end(core: Any) -> None:
    """However late the next look is, nothing lapses, and nothing is set aside for a successor."""
    life = looking(core)
    assert not life.state.lease.renewable
    assert (life.state.deadline, core.rotate_by(life.state, life.policy)) == (math.inf, math.inf)
    assert life.at(1e9) == "Read"
    assert looking(core, math.inf).wait(1e9) == math.inf


@check
def a_look_that_finds_the_same_changes_nothing(core: Any) -> None:
    """Neither its name nor since when it serves; only the next look is another, by another draw."""
    life = looking(core, spread=10)
    life.fail(60).fail(61)
    life.send(62).tell(core.Unchanged(looked(core, 30, at=62, spread=10, version="v1 again"), 1.0), 63)
    assert (life.state.lease.lease_id, life.state.lease.issued_at) == ("v1", T)
    assert (life.phase, life.wait(63), life.state.failures) == ("active", near(102), 0)


@check
def a_look_that_says_nothing_new_revives_nothing(core: Any) -> None:
    """It came too late: the credential is lost, or was succeeded."""
    again = core.Unchanged(looked(core, at=61), 0.0)
    life = looking(core).send(60).lose(61)
    assert life.tell(again, 61).phase == "vacant"
    life = looking(core).send(60).succeed(61)
    before = life.state
    assert life.tell(again, 61).state == before


@check
def a_look_that_fails_is_tried_again(core: Any) -> None:
    """With growing pauses, of which none is longer than the source says; what is known serves on."""
    life = looking(core)
    pauses = []
    for at in range(60, 65):
        pauses.append(life.fail(at).wait(at) - at)
        assert (life.phase, life.state.lease.lease_id) == ("active", "v1")
    assert pauses == [near(pause) for pause in (0.5, 1, 2, 4, 8)]
    assert life.fail(100, longest_pause=1.0).wait(100) == near(101)
    assert life.fail(110, retryable=False, longest_pause=1.0).wait(110) == near(111)
    assert life.fail(120, longest_pause=1.0, retry_after=5.0).wait(120) == near(125)
    assert Machine(core).fail(0).fail(1).fail(2, longest_pause=1.0).wait(2) == near(3)


@check
def what_is_looked_at_can_be_replaced_by_hand(core: Any) -> None:
    """At once; and until that has happened, it is wanted."""
    life = looking(core).by_hand(10)
    assert (life.at(10), life.state.wanted) == ("Read", True)
    life.fail(10)
    assert (life.state.wanted, life.wait(10)) == (True, near(10.5))
    life.send(11).tell(core.Issued(looked(core, at=11), core.Owner(), 0.0), 11)
    assert (life.state.wanted, life.wait(11)) == (False, near(71))


@check
def what_is_looked_at_is_not_revoked(core: Any) -> None:
    """Nor renewed: when its sessions are back, it is over."""
    life = looking(core).succeed(70)
    assert (life.phase, life.wait(1e9)) == ("retiring", math.inf)
    assert life.drain(80).phase == "ended"
