"""
The command line: what is loaded when, and what is said when something is not installed.
"""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from vault_pool.cli import main
from vault_pool.cli.group import LazyGroup


def run(code):
    """Run *code* in a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_help_loads_no_command():
    """The list of commands needs neither rich nor psycopg nor a server."""
    ran = run(
        "import sys; from vault_pool.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    assert "demo" in ran.stdout
    assert "devserver" in ran.stdout
    assert not {"rich", "psycopg", "cheroot", "hvac", "vault_pool.cli.demo"} & set(ran.stdout.split())


@pytest.mark.parametrize("name", sorted(LazyGroup.homes))
def test_each_command_answers_help(name):
    """Every listed command exists, is named as it is listed, and explains itself."""
    answer = CliRunner().invoke(main, [name, "--help"])
    assert answer.exit_code == 0
    assert f" {name} [OPTIONS]" in answer.output


@pytest.mark.parametrize("module", ["rich", "cheroot", "werkzeug", "psycopg"])
def test_a_missing_package_is_named_with_its_extra(module):
    """Without a package of the extra a command ends with 2 and one line that tells what to install."""
    ran = run(f"import sys; sys.modules[{module!r}] = None; from vault_pool.cli import main; main(['demo'])")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == [
        f"Error: `demo` needs {module}, which is not installed: pip install 'vault_pool[dev]'"
    ]


def test_without_click_there_is_one_line_too():
    """Even click may be missing."""
    ran = run("import sys; sys.modules['click'] = None; from vault_pool.cli import main; main()")
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == ["vault-pool: click is not installed: pip install 'vault_pool[cli]'"]


def test_an_unknown_command_is_refused():
    """A name that is no command ends with 2, as click's own groups do."""
    answer = CliRunner().invoke(main, ["nonsense"])
    assert answer.exit_code == 2
    assert isinstance(main, click.Group)
