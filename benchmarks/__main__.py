"""
The command line: python -m benchmarks [--quick] [--json FILE] [names...]

Everything runs in one process against one PostgreSQL and one development Vault, contenders interleaved in an order
drawn anew in every round, so that a slow spell of the machine meets all of them. Only ratios tell something on
another machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool

from benchmarks import checkout, pauses, swaps
from benchmarks.figures import Figure
from benchmarks.servers import Servers, running

BENCHMARKS: dict[str, Callable[..., Iterator[Figure]]] = {
    "checkout": checkout.run,
    "replace": swaps.replace,
    "pauses": pauses.run,
    "leak": swaps.leak,
}
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run what was asked for; the exit status says whether it ran, not whether targets were reached."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.partition("\n\n")[2])
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go besides (default: results/)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    # The table may be read where it is piped to before the last benchmark is done.
    sys.stdout.reconfigure(line_buffering=True)
    results: dict[str, list[dict[str, Any]]] = {}
    with running() as servers:
        about = environment(servers)
        print(", ".join(f"{key} {value}" for key, value in about.items()))
        gc.freeze()
        for name in options.names or BENCHMARKS:
            began = time.monotonic()
            figures = list(BENCHMARKS[name](servers, quick=options.quick))
            took, load = time.monotonic() - began, os.getloadavg()[0]
            print(f"\n{name} ({took:.0f} s, load average {load:.1f})\n{table(figures)}")
            results[name] = [{**asdict(figure), "verdict": figure.verdict, "load": load} for figure in figures]
    path: Path = options.json or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": about, "quick": options.quick, "results": results}, indent=2) + "\n")
    print(f"\nalso in {os.path.relpath(path)}")
    return 0


def environment(servers: Servers) -> dict[str, str]:
    """Say on what the figures were taken."""
    with psycopg.connect(servers.admin) as conn:
        version = conn.info.parameter_status("server_version") or "?"
    return {
        "Python": platform.python_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "psycopg_pool": psycopg_pool.__version__,
        "PostgreSQL": version,
        "cores": str(os.cpu_count()),
        "load average before": f"{os.getloadavg()[0]:.1f}",
    }


def table(figures: list[Figure]) -> str:
    """Lay *figures* out in columns."""
    head = ("", "median", "quartiles", "", "n", "target", "")
    rows = [head, *(_cells(figure) for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) if at in {0, 3, 6} else cell.rjust(width) for at, (cell, width) in laid)
        for laid in (list(enumerate(zip(row, widths, strict=True))) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def _cells(figure: Figure) -> tuple[str, ...]:
    spread = "" if figure.low is None or figure.high is None else f"{_number(figure.low)} - {_number(figure.high)}"
    bound = "" if figure.target is None else f"{'>=' if figure.at_least else '<='} {figure.target:g}"
    return figure.what, _number(figure.value), spread, figure.unit, str(figure.samples), bound, figure.verdict


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or value >= 1000 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
