"""
What every test shares.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.fix_postgres", "tests.fix_proxy", "tests.fix_secrecy", "tests.fix_vault"]

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, derandomize=False, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# The developer's own Vault and PostgreSQL are none of the tests' business.
for _name in [name for name in os.environ if name.startswith(("PG", "VAULT_", "BAO_"))]:
    if not _name.startswith("VAULT_POOL_TEST_"):
        del os.environ[_name]

# What Windows and macOS lack, taken away before anything of ours is loaded.
if os.environ.get("VAULT_POOL_TEST_PLATFORM") == "bare":
    for _module, _name in ((os, "register_at_fork"), (os, "fork"), (time, "CLOCK_BOOTTIME"), (mmap, "MAP_PRIVATE")):
        if hasattr(_module, _name):
            delattr(_module, _name)

_SERVERS = {"postgres", "private_postgres", "vault_process", "tcp_proxy"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that talks to a server."""
    for item in items:
        if _SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("integration")


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """
    The test ends with the threads and file descriptors that it began with, at the latest after 5 seconds.

    Ask for it first, so that the fixtures after it are gone when it looks.
    """
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    deadline = time.monotonic() + 5
    while (set(threading.enumerate()) - threads or len(_descriptors()) > len(descriptors)) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.01)
    assert not set(threading.enumerate()) - threads
    left = _descriptors()
    assert len(left) <= len(descriptors), {fd: what for fd, what in left.items() if descriptors.get(fd) != what}


def _descriptors() -> dict[str, str]:
    """Return what each open file descriptor of this process refers to."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that listed the folder
            found[entry.name] = str(entry.readlink())
    return found
