"""
The demo in a terminal, or as plain lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from vault_pool.cli.demo.measurements import SPAN
from vault_pool.cli.demo.scene import Latency, Scene

if TYPE_CHECKING:
    from typing_extensions import Self

#: How often there is a new picture, in seconds: each costs Python's lock some milliseconds, which the application pays.
FRAME: Final = 0.25
#: How often the figures are printed where there is no terminal, in seconds.
_REPORT: Final = 5.0

_LABEL: Final = 16
_GENERATIONS: Final = 3
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"


class View(Protocol):
    """
    Shows scenes from `with` until its end.
    """

    def __enter__(self) -> Self:
        """
        Begin.
        """

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """
        Leave the terminal as it was.
        """

    def show(self, scene: Scene) -> None:
        """
        Show *scene*.
        """


def view_for(console: Console) -> View:
    """
    Return pictures for a terminal that can show them, else lines.
    """
    able = console.file.isatty() and console.is_terminal and not console.is_dumb_terminal
    return Pictures(console) if able and console.encoding.startswith("utf") else Lines(err=console.stderr)


class Lines:
    """
    What happens, line by line, and the figures now and then.
    """

    def __init__(self, *, err: bool) -> None:
        self._err = err
        self._seen = 0
        self._reported = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def show(self, scene: Scene) -> None:
        """
        Print what is new.
        """
        for line in scene.lines:
            if line.number > self._seen:
                self._seen = line.number
                self._print(line.at - scene.began, line.text)
        if scene.elapsed >= self._reported + _REPORT:
            self._reported = scene.elapsed
            self._print(
                scene.elapsed,
                f"{scene.requests:,} requests, {scene.per_second:,.0f}/s, {scene.failed} failed; {scene.user} has"
                f" {scene.connections} connections, {sum(live for _, live in scene.retiring)} are retiring",
            )

    def _print(self, at: float, text: str) -> None:
        click.echo(f"{max(0.0, at):6.1f} s  {text}", err=self._err)


class Pictures:
    """
    One picture, drawn again and again on the terminal's second screen.
    """

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def show(self, scene: Scene) -> None:
        """
        Draw *scene*.
        """
        self._live.update(Picture(scene), refresh=True)


class Picture:
    """
    A scene in as many columns and rows as there are; made for 80 x 24 and more.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width - 4, (options.height or console.height) - 2
        lines = list(self._figures(width))
        lines = [*lines, *self._history(width, height - len(lines))][:height]
        yield Panel(
            Text("\n", no_wrap=True, overflow="ellipsis").join(lines),
            title="[bold]vault_pool demo[/]",
            title_align="left",
            subtitle="Ctrl-C ends it",
            subtitle_align="right",
            border_style="cyan",
            height=height + 2,
        )

    def _figures(self, width: int) -> Iterator[Text]:
        scene = self._scene
        yield _labelled("time", f"{_clock(scene.elapsed)} of {scene.goal}")
        yield _labelled("user", scene.user, "bold")
        yield self._lease(width)
        yield Text()
        yield from self._generations(width)
        yield Text()
        failed = Text(f"   {scene.failed} failed", style="bold green" if scene.failed == 0 else "bold red")
        yield _labelled("requests", f"{scene.requests:,}   {scene.per_second:,.0f}/s", "bold").append_text(failed)
        yield _labelled("rotations", str(scene.rotations), "bold magenta")
        yield _labelled("latency", f"{_shown(scene.around_rotations)} around rotations", "magenta")
        yield _labelled("", f"{_shown(scene.elsewhere)} elsewhere")
        yield Text()

    def _history(self, width: int, height: int) -> Iterator[Text]:
        """
        Yield a chart, and the last events in what it leaves of *height* rows.
        """
        scene = self._scene
        rows = max(1, min(8, height // 4))
        yield from self._chart(width, rows)
        yield Text()
        for line in scene.lines[-max(1, height - rows - 2) :]:
            style = "bold red" if line.grave else "magenta" if line.text.startswith("rotation") else ""
            yield Text(f"{max(0.0, line.at - scene.began):6.1f} s  ", style="dim").append(line.text, style=style)

    def _lease(self, width: int) -> Text:
        scene = self._scene
        share = min(1.0, scene.expires_in / scene.lease_duration) if scene.lease_duration else 0.0
        words = f"  {scene.expires_in:.1f} s of {scene.lease_duration:g} s left, {scene.phase}"
        columns = max(10, width - _LABEL - 30)
        filled = round(share * columns)
        bar = Text("━" * filled, style="green" if share > 1 / 3 else "yellow").append("─" * (columns - filled), "dim")
        return _labelled("lease", "").append_text(bar).append(words)

    def _generations(self, width: int) -> Iterator[Text]:
        scene = self._scene
        retiring = [(number, live, "retires") for number, live in reversed(scene.retiring)]
        shown = [(scene.generation, scene.connections, "serves"), *retiring]
        for number, connections, what in shown[:_GENERATIONS]:
            style = "green" if what == "serves" else "yellow"
            dots = Text("●" * min(connections, width - _LABEL - 30), style=style)
            words = f"{connections} connection{'' if connections == 1 else 's'} "
            yield _labelled(f"generation {number}", f"{what:8}{words:16}", style).append_text(dots)
        yield from (Text() for _ in range(_GENERATIONS - len(shown)))

    def _chart(self, width: int, rows: int) -> Iterator[Text]:
        """
        Yield a bar for each span, and below it a mark where there was a rotation.
        """
        scene = self._scene
        counts, marks = scene.throughput[-(width - _LABEL) :], scene.rotated[-(width - _LABEL) :]
        top = max(counts, default=0) or 1
        label = f"0 to {math.ceil(top / SPAN)}/s"
        for row in reversed(range(rows)):
            levels = (round(count / top * rows * 8) - row * 8 for count in counts)
            bars = "".join(_BLOCKS[min(8, max(0, level))] for level in levels)
            yield _labelled(label if row == rows - 1 else "", bars, "cyan")
        yield _labelled("", "".join("▲" if mark else " " for mark in marks), "magenta")


def _labelled(label: str, words: str, style: str = "") -> Text:
    return Text(f"{label:{_LABEL}}", style="dim").append(words, style=f"not dim {style}")


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _shown(latency: Latency) -> str:
    def figure(seconds: float | None) -> str:
        return "     - ms" if seconds is None else f"{seconds * 1000:6.1f} ms"

    return f"p50{figure(latency.p50)}   p99{figure(latency.p99)}"
