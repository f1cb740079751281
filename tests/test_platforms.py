"""
Where there is no fork() and no clock that runs on while the machine sleeps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def test_the_runtime_works_without_what_other_systems_lack():
    """Its own tests pass when os.register_at_fork, os.fork and CLOCK_BOOTTIME are taken away (all: make platforms)."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            TESTS / "unit" / "runtime",
            "-q",
            "-p",
            "no:randomly",
            "-p",
            "no:cacheprovider",
        ],
        cwd=TESTS.parent,
        env=os.environ | {"VAULT_POOL_TEST_PLATFORM": "bare"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
