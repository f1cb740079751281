"""
The examples of a page, in order, and how they are carried out.

    python -m tests.docs.pages docs/tutorial.md      (in an empty folder, with the environment of a world)

* ``python`` runs in one namespace for the whole page, ``sh`` in bash, each block in the environment that the one before
  left; what it started in the background is ended with the page; ``sql`` runs as the server's superuser, in the
  database that a first line ``-- In the database NAME:`` names.
* A block with a file's name as ``:caption:`` is written to that file, whatever its language.
* ``<!-- not run: REASON -->`` before a block is the only way out. Other languages (``text``, ``hcl``, …) are shown,
  not run.
"""

from __future__ import annotations

import contextlib
import ctypes
import doctest
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>.*?) -->\n)?"
    r"^(?P<indent> *)```(?:\{code-block\} *)?(?P<language>\w+)\n(?P<body>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_CAPTION = re.compile(r"\A:caption: (?P<name>\S+)\n\n?")
#: What the pages call the servers, where an environment variable cannot say it.
VAULT_ADDRESS = "https://vault.example.com:8200"


@dataclass(frozen=True)
class Block:
    """One example: *line* is where its first line stands on the page, *reason* why it is not run."""

    language: str
    code: str
    line: int
    file: str | None = None
    reason: str | None = None

    @property
    def runs(self) -> bool:
        return self.reason is None and (self.file is not None or self.language in ("python", "sh", "sql"))


def blocks(page: Path) -> list[Block]:
    """Return the examples of *page*."""
    text = page.read_text()
    return [_block(text, found) for found in _FENCE.finditer(text)]


def _block(text: str, found: re.Match[str]) -> Block:
    body, line = found["body"], text.count("\n", 0, found.start("body")) + 1
    caption = _CAPTION.match(body)
    if caption:
        body, line = body[caption.end() :], line + caption.group().count("\n")
    code = re.sub(rf"^{found['indent']}", "", body, flags=re.MULTILINE)
    return Block(found["language"], code, line, caption["name"] if caption else None, found["reason"])


class Page:
    """A page that is being carried out, in the current folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._shells: list[subprocess.Popen[bytes]] = []

    def run(self) -> None:
        """Carry it out, and end what it started."""
        try:
            for block in blocks(self._path):
                if block.runs:
                    self._carry_out(block)
        finally:
            self._end()

    def _carry_out(self, block: Block) -> None:
        print(f"{self._path}:{block.line}: {block.file or block.language}", file=sys.stderr, flush=True)  # noqa: T201
        code = block.code.replace(VAULT_ADDRESS, os.environ["VAULT_ADDR"])
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(code)
        elif block.language == "sh":
            self._shell(code)
        elif block.language == "sql":
            self._sql(code)
        elif ">>> " in code:
            self._doctest(code, block.line)
        else:
            source = "\n" * (block.line - 1) + code
            exec(compile(source, str(self._path), "exec"), self._names)

    def _doctest(self, code: str, line: int) -> None:
        test = doctest.DocTestParser().get_doctest(code, self._names, self._path.name, str(self._path), line - 1)
        outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
        self._names.update(test.globs)
        if outcome.failed:
            raise AssertionError(f"{self._path}:{line}: {outcome.failed} examples show something else")

    def _shell(self, code: str) -> None:
        """Run *code*; what it exports and where it goes is kept."""
        script = f"set -euo pipefail\n{code}\nenv -0 > .environment; pwd > .folder"
        shell = subprocess.Popen(["bash", "-c", script], stdin=subprocess.DEVNULL, start_new_session=True)
        self._shells.append(shell)
        if shell.wait(timeout=100) != 0:
            raise AssertionError(f"{self._path}: this failed:\n{code}")
        kept = Path(".environment").read_bytes().decode().split("\0")
        os.environ.update(line.partition("=")[::2] for line in kept if not line.startswith(("_=", "SHLVL=")) and line)
        Path(".environment").unlink()
        folder = Path(".folder")
        where = folder.read_text().strip()
        folder.unlink()
        os.chdir(where)

    def _sql(self, code: str) -> None:
        superuser = {"user": "postgres", "password": os.environ["WORLD_SUPERUSER_PASSWORD"]}
        place = re.match(r"-- In the database (\w+):", code)
        with psycopg.connect(dbname=place[1] if place else "postgres", autocommit=True, **superuser) as conn:
            for statement in statements(code):
                conn.execute(statement.encode())

    def _end(self) -> None:
        for shell in self._shells:
            for sign in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(shell.pid, sign)
                if _gone(shell.pid, 10):
                    break


def statements(code: str) -> Iterator[str]:
    """Yield the statements of a script for psql: each ends with a semicolon, and its line with it."""
    pending: list[str] = []
    for line in code.splitlines():
        if not pending and (not line.strip() or line.startswith("--")):
            continue
        pending.append(line)
        if re.search(r";\s*(--.*)?$", line):
            yield "\n".join(pending)
            pending = []
    assert not pending, f"no semicolon ends {pending[0]!r}"


def _adopt_orphans() -> None:
    """Become the parent of what the shells leave in the background, so that its end can be waited for (Linux)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _gone(group: int, seconds: float) -> bool:
    """Wait up to *seconds* until the last process of *group* has ended; tell whether it has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-group, os.WNOHANG)
        except ChildProcessError:
            return True
        if not ended:
            time.sleep(0.05)
    return False


if __name__ == "__main__":
    _adopt_orphans()
    Page(Path(sys.argv[1])).run()
