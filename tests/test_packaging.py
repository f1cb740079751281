"""
What pip installs, and what it needs for that.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

import vault_pool

ROOT = Path(vault_pool.__file__).parents[1]
TREE = Path(__file__).parents[1]
EXTRAS = {"binary", "c", "flask", "django", "sqlalchemy", "prometheus", "otel", "cli", "dev"}


@pytest.fixture(scope="module")
def distribution():
    try:
        return metadata.distribution("vault_pool")
    except metadata.PackageNotFoundError:
        pytest.skip("run from a folder, not installed")


def required(distribution, extra=None):
    """Return the names of what an installation needs, of itself or for *extra*."""
    found = set()
    for line in distribution.requires or []:
        of_extra = re.search(r"""extra == ['"](\w+)['"]""", line)
        if (of_extra.group(1) if of_extra else None) == extra:
            found.add(re.match(r"[\w.-]+", line).group().lower().replace("-", "_"))
    return found


def test_four_dependencies_and_no_more(distribution):
    """Everything else is an extra."""
    assert required(distribution) == {"psycopg", "psycopg_pool", "hvac", "tenacity"}
    assert set(distribution.metadata.get_all("Provides-Extra")) == EXTRAS


def test_every_dependency_has_a_lower_bound(distribution):
    """It is what is tested with the oldest that it allows."""
    for line in distribution.requires or []:
        assert ">=" in line or line.lower().startswith(("vault_pool", "vault-pool")), line


def test_types_are_shipped():
    """PEP 561: a marker beside the package."""
    assert (ROOT / "vault_pool" / "py.typed").is_file()


def test_the_command_is_there(distribution):
    """`vault-pool` and `python -m vault_pool` are one command."""
    (script,) = [entry for entry in distribution.entry_points if entry.group == "console_scripts"]
    assert (script.name, callable(script.load())) == ("vault-pool", True)
    done = subprocess.run(
        [sys.executable, "-m", "vault_pool", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "demo" in done.stdout


@pytest.mark.skipif(util.find_spec("hatchling") is None, reason="hatchling is not installed")
@pytest.mark.skipif(not (TREE / "vault_pool").is_dir(), reason="the source tree is out of the way")
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    """No test, no benchmark, no leftover; every module that there is."""
    from zipfile import ZipFile

    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=TREE,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert all(name.startswith("vault_pool/") for name in names)
    assert {"vault_pool/py.typed", "vault_pool/pool.py"} <= names
    modules = {str(path.relative_to(TREE)) for path in (TREE / "vault_pool").rglob("*.py")}
    assert modules <= names


def test_every_supported_python_is_declared(distribution):
    """The classifiers name the versions that continuous integration runs."""
    declared = {
        line.rpartition(" :: ")[2]
        for line in distribution.metadata.get_all("Classifier")
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)
    }
    assert declared == {"3.10", "3.11", "3.12", "3.13"}
    assert distribution.metadata["Requires-Python"] == ">=3.10"


@pytest.mark.skipif(not (TREE / "constraints.txt").is_file(), reason="no constraints.txt beside the tests")
def test_everything_that_development_needs_is_locked(distribution):
    """`make lock` was run after the last change of a dependency."""
    locked = {
        re.match(r"[\w.-]+", line).group().lower().replace("_", "-")
        for line in (TREE / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    extras = EXTRAS - {"c"}
    wanted = set().union(*(required(distribution, extra) for extra in [None, *extras]))
    assert {name.replace("_", "-") for name in wanted} - {"vault-pool"} <= locked
