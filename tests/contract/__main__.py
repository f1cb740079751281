"""
Replay recorded exchanges with real servers, and print what differs; see `--help`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.contract.recording import IMITATED, OUT_OF_REACH, TIMED, Scenario, choose, load, recordings
from tests.contract.replay import Finding, replay
from tests.contract.world import logging_postgres

_FLAVORS = {"bao": "openbao", "vault": "vault"}


def main() -> int:
    """Return 1 if anything differs that is not listed with its reason."""
    options = _options()
    scenarios = [
        one for path in options.files or recordings() for one in load(path, options.flavor if options.files else None)
    ]
    if options.server != "devserver":
        scenarios = [one for one in scenarios if one.flavor == _FLAVORS[options.server]]
    elif options.flavor:
        scenarios = [one for one in scenarios if one.flavor == options.flavor]
    names = options.scenario or ([one.name for one in scenarios] if options.files else IMITATED)
    chosen = choose(scenarios, names if options.scenario else set(names) - set(OUT_OF_REACH))
    if not chosen:
        sys.stderr.write("nothing to replay\n")
        return 2
    findings = []
    with logging_postgres(options.postgres) as postgres:
        for scenario, manual in _runs(chosen, options):
            began = time.monotonic()
            found = replay(scenario, postgres, kind=options.server, manual=manual)
            findings += found
            _report(scenario, manual=manual, found=found, seconds=time.monotonic() - began)
    unknown = [one for one in findings if not one.reason]
    _say(f"{len(unknown)} differences, {len(findings) - len(unknown)} more that are known")
    return 1 if unknown else 0


def _runs(chosen: list[Scenario], options: argparse.Namespace) -> list[tuple[Scenario, bool]]:
    """Return each scenario with whether to set the clock by hand."""
    if options.server != "devserver" or options.clock == "system":
        return [(scenario, False) for scenario in chosen]
    runs = [(scenario, True) for scenario in chosen]
    if options.clock == "both":
        runs += [(scenario, False) for scenario in choose(chosen, TIMED)]
    return runs


def _report(scenario: Scenario, *, manual: bool, found: list[Finding], seconds: float) -> None:
    clock = "manual clock" if manual else "system clock"
    verdict = f"{len(found)} differences" if found else "agrees"
    _say(f"{scenario} ({len(scenario.lines)} lines, {clock}, {seconds:.1f} s): {verdict}")
    for one in found:
        _say("  " + str(one).replace("\n", "\n  "))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.contract", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help=".jsonl or .jsonl.gz; default: the committed recordings")
    parser.add_argument("--server", choices=["devserver", "bao", "vault"], default="devserver")
    parser.add_argument("--flavor", choices=["openbao", "vault"], help="whose recordings; default: as the files tell")
    parser.add_argument("--scenario", action="append", help="only this one; may be repeated")
    parser.add_argument(
        "--clock", choices=["manual", "system", "both"], default="both", help="devserver's; both: default"
    )
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the embedded PostgreSQL")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
