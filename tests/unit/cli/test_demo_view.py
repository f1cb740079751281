"""
The demo's picture and its plain lines.
"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vault_pool.cli.demo.feed import Feed, Line
from vault_pool.cli.demo.scene import Latency, Scene
from vault_pool.cli.demo.view import Lines, Picture, Pictures, view_for
from vault_pool.events import GenerationRetired, LeaseRenewed, LeaseRevoked, PoolReplaced, RotationFailed

USER = "v-approle-shop-X2DrygD1UKuRKbAgHnFC-1795382458"


def scene(**changes):
    """A moment of a demo that goes well."""
    fields = {
        "began": 100.0,
        "elapsed": 83.0,
        "goal": "2:00",
        "generation": 12,
        "user": USER,
        "phase": "active",
        "expires_in": 3.0,
        "lease_duration": 6.0,
        "connections": 8,
        "retiring": [(11, 2)],
        "requests": 12345,
        "failed": 0,
        "per_second": 237.0,
        "rotations": 11,
        "around_rotations": Latency(p50=0.004, p99=0.0187),
        "elsewhere": Latency(p50=0.004, p99=0.0171),
        "throughput": [100 + n % 9 for n in range(300)],
        "rotated": [int(n % 8 == 0) for n in range(300)],
        "lines": [Line(n, 100.0 + n, f"event {n}") for n in range(1, 80)],
    }
    return Scene(**{**fields, **changes})


def drawn(picture, width, height):
    """The rows of *picture* on a screen of that size."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(picture, height=height, end="")
    return captured.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60), (40, 12), (20, 5)])
def test_a_picture_fills_the_screen_and_no_more(width, height):
    """Whatever the size: as many rows, and none longer than the screen is wide."""
    rows = drawn(Picture(scene()), width, height)
    assert len(rows) == height
    assert {len(row) for row in rows} == {width}


def test_80_by_24_shows_all_that_matters():
    """User, lease, generations with their connections, load, failures, latency, rotations, and the latest event."""
    text = "\n".join(drawn(Picture(scene()), 80, 24))
    for shown in (
        "1:23 of 2:00",
        USER,
        "3.0 s of 6 s left, active",
        "generation 12   serves",
        "8 connections",
        "generation 11   retires",
        "2 connections",
        "12,345   237/s   0 failed",
        "p99  18.7 ms around rotations",
        "p99  17.1 ms elsewhere",
        "event 79",
        "▲",
        "█",
    ):
        assert shown in text


def test_the_first_picture_needs_no_figures():
    """Before anything happened there is something to see already."""
    empty = scene(
        generation=0,
        user="-",
        lease_duration=0.0,
        expires_in=0.0,
        retiring=[],
        throughput=[],
        rotated=[],
        lines=[],
        around_rotations=Latency(p50=None, p99=None),
    )
    assert len(drawn(Picture(empty), 80, 24)) == 24


def test_lines_say_each_event_once_and_the_figures_now_and_then(capsys):
    """Without a terminal nothing is drawn: lines are added, the events' own and one of figures each five seconds."""
    lines = [Line(1, 101.0, "first"), Line(2, 102.0, "second")]
    with Lines(err=True) as view:
        view.show(scene(elapsed=2.1, lines=lines[:1]))
        view.show(scene(elapsed=3.0, lines=lines))
        view.show(scene(elapsed=5.1, lines=lines))
        view.show(scene(elapsed=6.0, lines=lines))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[:2] == ["   1.0 s  first", "   2.0 s  second"]
    assert len(said.err.splitlines()) == 3
    assert "12,345 requests, 237/s, 0 failed" in said.err
    assert said.err.isascii()


def test_a_file_gets_lines():
    """What is no terminal gets no pictures, even where colours are forced."""
    assert isinstance(view_for(Console(file=io.StringIO(), force_terminal=True)), Lines)


def test_a_terminal_gets_pictures(monkeypatch):
    """A terminal that can show them does."""
    monkeypatch.setenv("TERM", "xterm")
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    assert isinstance(view_for(Console(file=screen)), Pictures)


def test_the_feed_tells_a_rotation_in_words():
    """Each event becomes a line; leases are named after their generations, and only successors are rotations."""
    rotations = []
    feed = Feed(rotations.append)
    for event in (
        PoolReplaced(source="s", generation=1, user="v-1", lease_id="a", duration=6.0, seconds=0.01),
        LeaseRenewed(source="s", lease_id="a", duration=4.0, truncated=True),
        PoolReplaced(source="s", generation=2, user="v-2", lease_id="b", duration=6.0, seconds=0.03),
        GenerationRetired(source="s", generation=1, seconds=0.9),
        LeaseRevoked(source="s", lease_id="a"),
        RotationFailed(source="s", error="no", attempt=1),
    ):
        feed.listen(event)
    assert [line.text for line in feed.lines()] == [
        "generation 1 serves, with a lease of 6 s",
        "lease 1 renewed for 4 s, less than asked for: that is max_ttl",
        "rotation 1: generation 2 serves, made in 30 ms",
        "generation 1 closed its last connection after 0.9 s",
        "lease 1 revoked: Vault has dropped its database role",
        "RotationFailed: no",
    ]
    assert [line.grave for line in feed.lines()] == [False] * 5 + [True]
    assert len(rotations) == 1
    assert feed.durations == {"b": 6.0}
