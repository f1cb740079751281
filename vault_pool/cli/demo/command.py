"""
The command: how long, and in which form.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import click
import psycopg
from rich.console import Console

from vault_pool import VaultPoolError
from vault_pool.cli.demo.app import Website, application
from vault_pool.cli.demo.clients import FAST, SLOW, Clients
from vault_pool.cli.demo.feed import Feed
from vault_pool.cli.demo.measurements import WINDOW, Measurements
from vault_pool.cli.demo.scene import Scene
from vault_pool.cli.demo.stage import MAX_TTL, Stage, own_environment
from vault_pool.cli.demo.summary import Result
from vault_pool.cli.demo.view import FRAME, view_for
from vault_pool.cli.interruption import Interruption
from vault_pool.devserver import DevServerError

_DURATION: Final = 60.0
_LONGEST_ERROR: Final = 300
_STARTING_FAILS_WITH: Final = (
    DevServerError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    ValueError,
    VaultPoolError,
    psycopg.Error,
)


class CannotStart(click.ClickException):
    """
    The demo did not come about.
    """

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """
    When the demo is over: after *duration* seconds, or *rotations*, whichever comes first.
    """

    duration: float
    rotations: int | None

    @classmethod
    def of(cls, duration: float | None, rotations: int | None) -> Goal:
        """
        Fill in what was not given; for rotations there is plenty of time then.
        """
        if duration is None:
            duration = _DURATION if rotations is None else 2.0 * MAX_TTL * (rotations + 1)
        return cls(duration=duration, rotations=rotations)

    def reached(self, measured: Measurements, now: float) -> bool:
        """
        Tell whether the end has come; the last rotation's window belongs to it.
        """
        if now >= measured.began + self.duration:
            return True
        wanted = self.rotations
        return wanted is not None and len(measured.rotations) >= wanted and now > measured.rotations[-1] + WINDOW

    def __str__(self) -> str:
        if self.rotations is not None:
            return f"{self.rotations} rotation{'' if self.rotations == 1 else 's'}, {self.duration:g} s at most"
        return f"{self.duration:g} s"


@click.command("demo")
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End after so many seconds of load; 60, unless --rotations is given.",
)
@click.option("--rotations", type=click.IntRange(min=1), metavar="N", help="End after so many rotations.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object; all else goes to stderr.")
def demo(*, duration: float | None, rotations: int | None, as_json: bool) -> None:
    """
    Rotate a web application's database credentials under load, and watch.

    Starts a PostgreSQL, a development Vault and the application on this machine, in a temporary folder, and removes all
    of it at the end. Exits with 1 if a request failed or anything was left behind, with 2 if it could not start.
    """
    goal = Goal.of(duration, rotations)
    console = Console(stderr=as_json)
    interruption = Interruption()
    with own_environment(), interruption.handling():
        result = perform(goal, console, interruption)
    _summarise(result, err=as_json)
    if as_json:
        click.echo(json.dumps(result.mapping(), indent=2))
    sys.exit(0 if result.clean else 1)


def perform(goal: Goal, console: Console, interruption: Interruption) -> Result:
    """
    Run until *goal* is reached or *interruption* asked for the end; raise `CannotStart`.
    """
    measured = Measurements()
    feed = Feed(measured.rotated)
    click.echo("Starting PostgreSQL, the development Vault and the application ...", err=console.stderr)
    with ExitStack() as stack:
        stack.enter_context(_warnings_go_to(feed))
        with _as_one_line():
            stage = stack.enter_context(Stage())
            peak = stack.enter_context(stage.peak_connections())
            load = stack.enter_context(ExitStack())
            pool = load.enter_context(stage.pool(feed.listen))
            website = load.enter_context(Website(application(pool), threads=FAST + SLOW + 2))
        measured.began = time.monotonic()
        if not interruption.asked:
            view = load.enter_context(view_for(console))
            load.enter_context(Clients(website.port, measured))
        while not interruption.asked and not goal.reached(measured, now := time.monotonic()):
            measured.digest(now)
            view.show(Scene.of(pool, feed, measured, now, str(goal)))
            time.sleep(FRAME)
        seconds = time.monotonic() - measured.began
        load.close()
        measured.digest(math.inf)
        return Result.of(
            measured, seconds=seconds, renewals=feed.renewals, roles=stage.roles(), leases=stage.leases(), peak=peak[0]
        )


@contextmanager
def _warnings_go_to(feed: Feed) -> Iterator[None]:
    root = logging.getLogger()
    root.addHandler(feed)
    try:
        yield
    finally:
        root.removeHandler(feed)


@contextmanager
def _as_one_line() -> Iterator[None]:
    """
    Raise what went wrong as `CannotStart`, whose text is one line.
    """
    try:
        yield
    except _STARTING_FAILS_WITH as error:
        text = " ".join(str(error).split())
        if len(text) > _LONGEST_ERROR:
            # A server's log tells the reason at its end.
            text = f"{text[: _LONGEST_ERROR // 3]} ... {text[-_LONGEST_ERROR // 2 :]}"
        raise CannotStart(f"the demo cannot start: {text or type(error).__name__}") from None


def _summarise(result: Result, *, err: bool) -> None:
    for label, words in result.lines():
        click.echo(f"  {label:15}{words}", err=err)
    if result.clean:
        click.secho("No request failed, and nothing was left behind.", fg="green", err=err)
    else:
        click.secho("Something went wrong: see above.", fg="red", err=err)
