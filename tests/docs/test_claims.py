"""
What the documentation says of itself.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLAIMS = (ROOT / "docs/explanation/claims.md").read_text()
TESTS = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", CLAIMS)
PAGES = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]


def test_every_claim_names_a_test():
    """No row of the table ends without one."""
    rows = [line for line in CLAIMS.splitlines() if line.startswith("| ") and not line.startswith("| claim")]
    assert rows
    assert [row for row in rows if "`tests/" not in row] == []


@pytest.mark.parametrize("file", sorted({file for file, _ in TESTS}))
def test_the_tests_that_are_named_exist(file):
    """A test that was renamed takes its claim along."""
    defined = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert {name for each, name in TESTS if each == file and name} - defined == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_linked_to_exists(page):
    """Links between the pages and to files, without building the site; anchors and addresses are the builder's."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_repository_that_are_named_exist(page):
    """A path in code font is a promise, too."""
    named = re.findall(r"`((?:tests|deploy|docs|examples|benchmarks|vault_pool)/[\w./-]+\.\w+)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
