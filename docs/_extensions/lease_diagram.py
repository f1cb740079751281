"""
The life of a lease, drawn from the state machine itself: it is walked, and every change of phase is noted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from html import escape

from vault_pool.core.lease import Lease, Owner
from vault_pool.core.machine import (
    Action,
    Drained,
    Event,
    Failed,
    Issued,
    Lapse,
    Lapsed,
    LeaseState,
    Lost,
    OwnerChanged,
    Phase,
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
    advance,
    decide,
)
from vault_pool.core.policy import RenewalPolicy

_POLICY = RenewalPolicy(jitter=0.0)
_DURATION = 90.0

#: Where each phase stands: column and row.
_PLACES = {
    Phase.VACANT: (0, 1),
    Phase.ACTIVE: (1, 0),
    Phase.LAPSED: (1, 2),
    Phase.FINAL: (2, 1),
    Phase.RETIRING: (3, 1),
    Phase.REVOKING: (4, 0),
    Phase.ENDED: (4, 2),
}
_MEANINGS = {
    Phase.VACANT: "nothing to serve with",
    Phase.ACTIVE: "renewing buys time",
    Phase.FINAL: "a successor is to come",
    Phase.LAPSED: "over, no successor yet",
    Phase.RETIRING: "succeeded, sessions out",
    Phase.REVOKING: "sessions back, tell Vault",
    Phase.ENDED: "nothing left to do",
}


def transitions() -> dict[tuple[Phase, Phase], list[str]]:
    """Return, for each change from one phase to another, the names of the events that lead there."""
    found: dict[tuple[Phase, Phase], set[str]] = defaultdict(set)
    seen: set[object] = set()
    edge = [(LeaseState(), 0.0)]
    while edge:
        state, now = edge.pop()
        if math.isinf(now) or (sort := _sort(state, now)) in seen:
            continue
        seen.add(sort)
        action = decide(state, now, _POLICY)
        if isinstance(action, Wait):
            edge.append((state, action.until))
        if isinstance(action, (Read, Renew, Revoke)):
            # The answer may not come in time.
            edge.append((advance(state, Sent(), now, _POLICY), state.deadline))
        for event, told in _next(state, action, now):
            after = advance(told, event, now, _POLICY)
            if after.phase is not state.phase:
                found[state.phase, after.phase].add(type(event).__name__)
            edge.append((after, now))
    return {change: sorted(names) for change, names in found.items()}


def _sort(state: LeaseState, now: float) -> object:
    """Return what tells one kind of state from another, whatever the time of day."""
    lease, action = state.lease, decide(state, now, _POLICY)
    kept = lease and (lease.renewable, lease.polled, lease.duration, state.owner.final)
    waiting = state.sent_at is not None
    return state.phase, kept, type(action), waiting, state.failures > 0, state.wanted, now >= state.deadline


def _next(state: LeaseState, action: Action, now: float) -> Iterator[tuple[Event, LeaseState]]:
    """Yield what can happen now, and the state to which it is told."""
    if isinstance(action, Lapse):
        yield Lapsed(), state
        return
    answers: list[Event] = []
    if isinstance(action, (Read, Renew, Revoke)):
        answers = [Failed(draw=0.5), Failed(draw=0.5, retryable=False)]
    if isinstance(action, Read):
        leased = [Lease.issued("a", _DURATION, now, renewable=renewable) for renewable in (True, False)]
        looked_up = Lease.looked_up("v1", _DURATION, now)
        answers += [Issued(lease, Owner(), 0.5) for lease in (*leased, looked_up)]
        answers += [Unchanged(looked_up, 0.5)] if state.lease is not None and state.lease.polled else []
    elif isinstance(action, Renew):
        answers += [Renewed(_DURATION, now, 0.5), Renewed(_DURATION / 2, now, 0.5), Lost()]
    elif isinstance(action, Revoke):
        answers += [Revoked()]
    sent = advance(state, Sent(), now, _POLICY) if answers else state
    yield from ((answer, sent) for answer in answers)
    unasked: list[Event] = [Lost(), RotationRequested()]
    if state.lease is not None and not state.lease.polled:
        unasked += [OwnerChanged(Owner(expires_at=now + _DURATION / 3, term=_DURATION, final=True))]
    if state.serving or state.phase is Phase.LAPSED:
        unasked += [Succeeded()]
    if state.phase is Phase.RETIRING:
        unasked += [Drained()]
    yield from ((event, state) for event in unasked)


# --- The picture -------------------------------------------------------------------------------------------

_COLUMN, _ROW, _WIDTH, _HEIGHT, _MARGIN = 200, 110, 150, 46, 30


def svg() -> str:
    """Return the picture: a box for each phase, a numbered arrow for each change."""
    arrows = [_arrow(number, *change) for number, change in enumerate(_ordered(), 1)]
    boxes = [_box(phase) for phase in Phase]
    size = f"0 0 {4 * _COLUMN + _WIDTH + 2 * _MARGIN} {2 * _ROW + _HEIGHT + 2 * _MARGIN}"
    return (
        f'<svg viewBox="{size}" role="img" aria-label="The phases of a lease and the changes between them" '
        'font-family="sans-serif" fill="currentColor" stroke="currentColor" style="max-width:100%">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" stroke="none"/></marker></defs>' + "".join(arrows + boxes) + "</svg>"
    )


def table() -> str:
    """Return what the numbers mean, as Markdown."""
    lines = ["| | from | to | when |", "|---|---|---|---|"]
    found = transitions()
    for number, (before, after) in enumerate(_ordered(), 1):
        events = ", ".join(f"`{name}`" for name in found[before, after])
        lines.append(f"| {number} | {before.value} | {after.value} | {events} |")
    return "\n".join(lines)


def _ordered() -> list[tuple[Phase, Phase]]:
    phases = list(Phase)
    return sorted(transitions(), key=lambda change: [phases.index(phase) for phase in change])


def _centre(phase: Phase) -> tuple[float, float]:
    column, row = _PLACES[phase]
    return _MARGIN + column * _COLUMN + _WIDTH / 2, _MARGIN + row * _ROW + _HEIGHT / 2


def _box(phase: Phase) -> str:
    x, y = _centre(phase)
    return (
        f'<rect x="{x - _WIDTH / 2}" y="{y - _HEIGHT / 2}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="none"/>'
        f'<g stroke="none" text-anchor="middle"><text x="{x}" y="{y - 3}" font-size="14" font-weight="bold">'
        f'{phase.value}</text><text x="{x}" y="{y + 14}" font-size="11">{escape(_MEANINGS[phase])}</text></g>'
    )


def _arrow(number: int, before: Phase, after: Phase) -> str:
    """Return an arrow from edge to edge, beside its opposite, with its number at two fifths of the way."""
    (x1, y1), (x2, y2) = _centre(before), _centre(after)
    dx, dy = x2 - x1, y2 - y1
    length = math.hypot(dx, dy)
    aside_x, aside_y = -dy / length * 8, dx / length * 8
    out = min(_inside(dx, _WIDTH, aside_x), _inside(dy, _HEIGHT, aside_y))
    back = min(_inside(dx, _WIDTH, -aside_x), _inside(dy, _HEIGHT, -aside_y))
    from_x, from_y = x1 + aside_x + dx * out, y1 + aside_y + dy * out
    to_x, to_y = x2 + aside_x - dx * back, y2 + aside_y - dy * back
    label_x, label_y = from_x + (to_x - from_x) * 0.4 + aside_x, from_y + (to_y - from_y) * 0.4 + aside_y + 4
    return (
        f'<line x1="{from_x:.1f}" y1="{from_y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" marker-end="url(#tip)"/>'
        f'<text x="{label_x:.1f}" y="{label_y:.1f}" font-size="11" text-anchor="middle" stroke="none">{number}</text>'
    )


def _inside(distance: float, size: int, aside: float) -> float:
    """Return the part of a line, *distance* long and *aside* of the middle, that is in a box of *size* at its start."""
    return (size / 2 - math.copysign(aside, aside * distance)) / abs(distance) if distance else math.inf
