"""
The life of a lease, as a state machine.

Rule 1: `advance` says where an event leads, `decide` what is to be done now; nothing else changes or reads a state.
Rule 2: every state has a next wake-up, and while a credential lives it lies before the point where it is too late.
Rule 3: a failed request never discards a credential; only its end, or the word of Vault that it is lost, does.
Rule 4: one request is on its way at most, and its answer counts for the credential that it was sent for.

The same machine serves a database lease (``Read`` = read a new credential) and a token (``Read`` = log in).
"""

from __future__ import annotations

import math
from dataclasses import replace

from vault_pool.core.lease import Owner
from vault_pool.core.messages import (
    Action,
    Drained,
    Event,
    Failed,
    Issued,
    Lapse,
    Lapsed,
    Lost,
    OwnerChanged,
    Read,
    Renew,
    Renewed,
    Revoke,
    Revoked,
    RotationRequested,
    Sent,
    Succeeded,
    Unchanged,
    Wait,
)
from vault_pool.core.policy import RenewalPolicy
from vault_pool.core.state import LeaseState, Phase

__all__ = [
    "Action",
    "Drained",
    "Event",
    "Failed",
    "Issued",
    "Lapse",
    "Lapsed",
    "LeaseState",
    "Lost",
    "Owner",
    "OwnerChanged",
    "Phase",
    "Read",
    "Renew",
    "Renewed",
    "Revoke",
    "Revoked",
    "RotationRequested",
    "Sent",
    "Succeeded",
    "Unchanged",
    "Wait",
    "advance",
    "decide",
    "rotate_by",
]


# --- The two functions -------------------------------------------------------------------------------------


def advance(state: LeaseState, event: Event, now: float, policy: RenewalPolicy) -> LeaseState:  # noqa: C901, PLR0911, PLR0912 - one arm an event
    """
    Return the state that *event*, heard of at *now*, leads to.

    Events that come too late to mean anything leave the state as it is.
    """
    if state.phase is Phase.ENDED:
        return state
    match event:
        case Sent():
            left = _allowance(state, now, policy) - 1
            request = _request(state, now, policy)
            return replace(state, sent_at=now, sent=request, allowance=left, allowed_at=now)
        case Issued() if not state.succeeded:
            return _issued(state, event, now, policy)
        case Unchanged(lease, draw) if state.serving and state.lease is not None:
            again = replace(lease, lease_id=state.lease.lease_id, issued_at=state.lease.issued_at)
            return _timed(replace(state, lease=again, draw=draw, failures=0, sent_at=None), policy)
        case Renewed() if state.lease is not None and not state.reading:
            return _renewed(replace(state, sent_at=None), event, now, policy)
        case Failed():
            return _failed(state, event, now, policy)
        case OwnerChanged(owner):
            return _owned(state, owner, now, policy)
        case Lost() | Revoked() if state.succeeded:
            return replace(state, phase=Phase.ENDED)
        case Lost() | Revoked():
            return _lost(state, now)
        case RotationRequested() if state.phase is Phase.ACTIVE:
            return replace(state, phase=Phase.FINAL, wanted=True, due=now, failures=0)
        case RotationRequested() if not state.succeeded:
            return replace(state, wanted=True, due=min(state.due, now))
        case Lapsed() if now >= state.deadline and state.serving:
            return replace(state, phase=Phase.LAPSED, due=min(state.due, now + policy.backoff_cap))
        case Lapsed() if now >= state.deadline and state.succeeded:
            return replace(state, phase=Phase.ENDED)
        case Succeeded() if state.lease is not None and not state.succeeded:
            # It comes with the answer to a read: what was on its way belongs to the successor.
            retiring = replace(state, phase=Phase.RETIRING, failures=0, wanted=False, sent_at=None)
            return _timed(retiring, policy)
        case Drained() if state.phase is Phase.RETIRING and state.lease is not None and state.lease.polled:
            return replace(state, phase=Phase.ENDED)
        case Drained() if state.phase is Phase.RETIRING:
            return replace(state, phase=Phase.REVOKING, due=now, failures=0)
        case _:
            return state


def decide(state: LeaseState, now: float, policy: RenewalPolicy) -> Action:
    """
    Return what the owner of *state* has to do at *now*.

    A wait ends later than *now*, and at the deadline at the latest; it is endless only for what has no end.
    """
    if state.phase is Phase.ENDED:
        return Wait(math.inf)
    over = now >= state.deadline
    # A renewal that is on its way may still save a lease that nobody waits for; who serves must know at once.
    if over and (state.serving or (state.succeeded and state.sent_at is None)):
        return Lapse()
    if state.sent_at is not None:
        due = now + policy.request_timeout
    else:
        # What Vault, or the lockout of a login method, forbids waits, as does what the allowance forbids,
        # even beyond the deadline: no answer of Vault may become a storm.
        due = max(state.due, state.held_until, _allowed_from(state, now, policy))
    if now < due:
        return Wait(due if over else min(due, state.deadline))
    return _request(state, now, policy)


def rotate_by(state: LeaseState, policy: RenewalPolicy) -> float:
    """
    Return the instant from which waiting takes time from the successor: what is left is kept for retiring.

    What is kept is at most a third of the term in force, so half of the lease has always passed by then.
    A token that may still be renewed is given half of that time more: its own upkeep comes first.
    """
    lease, owner = state.lease, state.owner
    if lease is None:
        return math.inf
    lease_turn = lease.expires_at - policy.reserve(lease.duration)
    term = min(owner.term, owner.expires_at - lease.stamped_at)
    owner_turn = owner.expires_at - policy.reserve(term) * (1 if owner.final else 0.5)
    return min(lease_turn, owner_turn)


# --- Which request, and when -------------------------------------------------------------------------------


def _request(state: LeaseState, now: float, policy: RenewalPolicy) -> Read | Renew | Revoke:
    lease, phase = state.lease, state.phase
    if lease is None or phase in (Phase.VACANT, Phase.LAPSED):
        return Read()
    if phase is Phase.REVOKING:
        return Revoke(lease)
    if phase is Phase.RETIRING:
        return Renew(lease)
    if lease.polled:
        return Read()
    if phase is Phase.ACTIVE:
        # The token should have been renewed by its turn: more time for the lease would not help.
        outlived = lease.expires_at > state.owner.expires_at and now >= rotate_by(state, policy)
        return Read() if outlived else Renew(lease)
    # Where no successor is to be had, a lease that can be renewed is kept alive meanwhile, by turns.
    read_failed = state.failures > 0 and isinstance(state.sent, Read)
    keep = read_failed and state.renewing_buys and now >= _renewal_at(state, policy)
    return Renew(lease) if keep else Read()


def _renewal_at(state: LeaseState, policy: RenewalPolicy) -> float:
    lease = state.lease
    assert lease is not None
    if lease.polled:
        return lease.stamped_at + lease.duration + lease.spread * state.draw
    end = state.deadline if state.owner.final else lease.expires_at
    return lease.stamped_at + (end - lease.stamped_at) * policy.fraction(state.draw)


def _timed(state: LeaseState, policy: RenewalPolicy) -> LeaseState:
    """
    Return *state* with the phase and the moment of its next request, for what is known of its end now.
    """
    buys = state.renewing_buys
    at = _renewal_at(state, policy)
    if state.phase is Phase.RETIRING:
        # Nobody will succeed it any more: where renewing buys nothing, its end is the next thing to happen.
        return replace(state, due=at if buys else math.inf)
    polled = state.lease is not None and state.lease.polled
    phase = Phase.ACTIVE if buys or polled else Phase.FINAL
    return replace(state, phase=phase, due=min(at, rotate_by(state, policy)))


def _by_the_clock(state: LeaseState, now: float, policy: RenewalPolicy) -> bool:
    """
    Return whether the next request is one that only the time asks for: no failure, no refusal, nobody by hand.

    It may be due already and held up by the allowance; then more time for the token still puts it off.
    """
    ahead = state.phase is not Phase.FINAL or now < state.due
    return state.failures == 0 and (ahead or state.due == _timed(state, policy).due)


def _in_time(due: float, state: LeaseState, now: float, policy: RenewalPolicy) -> float:
    """
    Return *due*, or the last moment before it at which acting is still worth something.
    """
    if state.serving and now < rotate_by(state, policy):
        return min(due, rotate_by(state, policy))
    return min(due, state.deadline) if now < state.deadline else due


def _pause(pause: float, state: LeaseState, now: float, policy: RenewalPolicy) -> float:
    """
    Return *pause* after a failure, or less: once the successor's time has come, at most half of what is left.

    Who sleeps until the end has no use of a Vault that was back before it.
    """
    left = state.deadline - now
    if state.serving and left > 0 and now >= rotate_by(state, policy):
        return min(pause, max(left / 2, policy.backoff_base))
    return pause


# --- What an event leads to --------------------------------------------------------------------------------


def _issued(state: LeaseState, event: Issued, now: float, policy: RenewalPolicy) -> LeaseState:
    fresh = replace(state, phase=Phase.ACTIVE, draw=event.draw, failures=0, wanted=False, sent_at=None)
    granted = replace(fresh, lease=event.lease, owner=event.owner)
    if now < granted.deadline:
        return _timed(granted, policy)
    # It was over before it came. Asking for the next one without a pause would get the same, and a role each time.
    failures = state.failures + 1
    return replace(granted, failures=failures, due=now + policy.backoff(failures, event.draw))


def _renewed(state: LeaseState, event: Renewed, now: float, policy: RenewalPolicy) -> LeaseState:
    assert state.lease is not None
    lease = state.lease.renewed(event.duration, event.stamped_at)
    longer = replace(state, lease=lease, draw=event.draw, failures=0)
    if state.wanted or state.phase is Phase.REVOKING:
        return longer
    timed = _timed(longer, policy)
    if timed.serving and not lease.renewable:
        # It has met max_ttl: what is left serves the successor, not the wait for it.
        return replace(timed, due=now)
    return timed


def _failed(state: LeaseState, event: Failed, now: float, policy: RenewalPolicy) -> LeaseState:
    request = state.sent if state.sent_at is not None else _request(state, now, policy)
    held_until = max(state.held_until, now + event.retry_after)
    answered = replace(state, sent_at=None, held_until=held_until)
    if isinstance(request, Renew):
        tried = _not_renewed(answered, event, now, policy)
        return replace(tried, due=max(tried.due, held_until))
    failures = state.failures + 1
    pause = policy.backoff(failures, event.draw) if event.retryable else policy.patience(event.draw)
    due = _in_time(now + _pause(min(pause, event.longest_pause), state, now, policy), state, now, policy)
    if isinstance(request, Revoke) and not event.retryable:
        # Vault will not be moved. The lease is gone when it lapses.
        due = math.inf
    return replace(answered, failures=failures, due=max(due, held_until))


def _not_renewed(state: LeaseState, event: Failed, now: float, policy: RenewalPolicy) -> LeaseState:
    lease = state.lease
    if lease is None or not (state.serving or state.phase is Phase.RETIRING):
        # Another request is wanted by now, and this failure says nothing about it.
        return state
    if not event.retryable:
        refused = replace(state, lease=replace(lease, renewable=False))
        return replace(refused, phase=Phase.FINAL, due=now) if state.serving else _timed(refused, policy)
    failures = state.failures + 1
    due = now + _pause(policy.backoff(failures, event.draw), state, now, policy)
    turn = rotate_by(state, policy)
    if state.phase is Phase.ACTIVE and due >= turn:
        # The next attempt would take the successor's time.
        return replace(state, phase=Phase.FINAL, failures=0, due=min(due, turn))
    return replace(state, failures=failures, due=_in_time(due, state, now, policy))


def _owned(state: LeaseState, owner: Owner, now: float, policy: RenewalPolicy) -> LeaseState:
    if state.lease is None:
        return state
    if owner.dead:
        return advance(state, Lost(), now, policy)
    if owner == state.owner:
        return state
    known = replace(state, owner=owner)
    if (state.serving or state.phase is Phase.RETIRING) and _by_the_clock(state, now, policy):
        return _timed(known, policy)
    return replace(known, due=_in_time(known.due, known, now, policy))


def _lost(state: LeaseState, now: float) -> LeaseState:
    # A read on its way brings the successor. A renewal on its way has no meaning left, and may hang for long.
    sent_at = state.sent_at if state.reading else None
    vacant = replace(state, phase=Phase.VACANT, lease=None, owner=Owner(), sent_at=sent_at)
    # Only a credential that served is news (one that has lapsed still does: whoever dropped its role is back, and the
    # pause after a failed read is over). Hearing it again must not cut that pause short.
    served = state.serving or state.phase is Phase.LAPSED
    return replace(vacant, due=now, failures=0) if served else vacant


# --- The allowance -----------------------------------------------------------------------------------------


def _allowance(state: LeaseState, now: float, policy: RenewalPolicy) -> float:
    if state.allowed_at == -math.inf:
        return float(policy.burst)
    return min(float(policy.burst), state.allowance + (now - state.allowed_at) * policy.refill)


def _allowed_from(state: LeaseState, now: float, policy: RenewalPolicy) -> float:
    missing = 1 - _allowance(state, now, policy)
    return now if missing <= 0 else now + missing / policy.refill
