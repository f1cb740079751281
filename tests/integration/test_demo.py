"""
The demo as a user runs it: a process of its own, with real servers.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

FIGURES = {
    "requests",
    "failed",
    "rotations",
    "roles_left",
    "leases_left",
    "peak_connections",
    "gap_ms",
    "calm_ms",
    "window_seconds",
}


@contextlib.contextmanager
def demo(*options):
    """A running demo; killed if it still runs at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vault_pool", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def folder_of(process):
    """The temporary folder of the PostgreSQL that *process* has started, from the command lines of its children."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                if int(stat.read_text().rpartition(") ")[2].split()[1]) == process.pid:
                    found = re.search(r"/[^\0]*/vault_pool-[^/\0]+", (stat.parent / "cmdline").read_text())
                    if found:
                        return Path(found[0])
        time.sleep(0.02)
    raise AssertionError("no PostgreSQL was started")


def test_a_rotation_under_load_fails_nothing_and_leaves_nothing():
    """A rotation, caused by the lease's own times: one JSON object on stdout, and every figure as promised."""
    with demo("--rotations", "1", "--json") as process:
        out, err = process.communicate(timeout=90)
    result = json.loads(out)
    assert process.returncode == 0, err
    assert result.keys() >= FIGURES
    assert result["failures"] == {}
    assert result["failed"] == result["roles_left"] == result["leases_left"] == 0
    assert result["rotations"] >= 1
    assert result["renewals"] >= 1
    assert result["requests"] > 200
    assert 0 < result["peak_connections"] <= result["connection_limit"]
    assert result["gap_ms"] > 0
    assert "rotation 1: generation 2 serves" in err
    assert "No request failed, and nothing was left behind." in err


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_signal_while_it_starts_ends_it_with_a_summary():
    """As soon as its PostgreSQL exists the demo can be interrupted, and leaves neither process nor folder."""
    with demo("--json") as process:
        folder = folder_of(process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["failed"] == 0
    assert not folder.exists()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        running = [path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert not [line for line in running if str(folder) in line]


def test_a_signal_under_load_ends_it_with_a_summary():
    """Ctrl-C while requests are under way: they are answered, everything is put away, and the exit is clean."""
    with demo("--duration", "60") as process:
        line = ""
        while "generation 1 serves" not in line:
            line = process.stdout.readline()
            assert line, process.stderr.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert err == ""
    assert "0 database roles, 0 leases" in out
