"""
A file that somebody else keeps up to date, such as a template of Vault Agent.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from vault_pool.core.lease import Credential
from vault_pool.errors import ConfigurationError, SourceError
from vault_pool.sources.base import Issued
from vault_pool.sources.polled import LEAST_INTERVAL, Polled, checked_field, checked_interval, credential_in
from vault_pool.vault.notices import log_open_file

_LARGEST = 1 << 20
_FORMATS = {".json": "json", ".env": "dotenv"}
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:\#.*)?""")
_ESCAPED = re.compile(r"\\(.)")

_Signature = tuple[int, int, int, int]


class AgentFile(Polled):
    """
    A source that looks at the file *path* every *interval* seconds.

    *format* is ``json`` (one object) or ``dotenv`` (``KEY=value`` lines, with ``export``, quotes and comments); left
    out, the suffix says, ``.json`` or ``.env``. A look costs one ``stat`` while device, inode, size and mtime stay; a
    file that changed is compared by content. While the file is missing, half written or without the fields, the
    credential that is known serves on. A file that everybody can read is warned of, once.

    Thread-safe. `read` raises `SourceError` only, which holds nothing of the file's content.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002 - the plain word
        user_field: str = "username",
        password_field: str = "password",  # noqa: S107 - the name of a field
        interval: float = 1.0,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
            raise ConfigurationError(f"path must be the path of a file, not {path!r}")
        self._path = Path(path)
        super().__init__(str(self._path))
        known = _FORMATS.get(self._path.suffix or self._path.name) if format is None else format
        if known is None or known not in _FORMATS.values():
            raise ConfigurationError(f'format must be "json" or "dotenv", not {format!r}')
        self._format = known
        self._user_field = checked_field("user_field", user_field)
        self._password_field = checked_field("password_field", password_field)
        self._interval = checked_interval(interval, LEAST_INTERVAL)
        self._signature: _Signature | None = None
        # Two writes within one tick of the file system's clock look alike: a signature counts when it was seen twice.
        self._settled = False

    def read(self, now: float) -> Issued:
        """
        Return the credential as the file has it now.
        """
        problem = ""
        try:
            credential = self._known if self._same() else self._look()
        except OSError as error:
            # Not its own text: without the frames below it, whose locals may hold the content.
            problem, credential = error.strerror or "it cannot be read", None
        if credential is None:
            self._signature = None
            raise SourceError(f"{self._path}: {problem or self._reason()}", longest_pause=self._interval)
        return self._issued(credential, now, self._interval, 0.0)

    def _same(self) -> bool:
        return self._settled and self._known is not None and _signature(self._path.stat()) == self._signature

    def _look(self) -> Credential | None:
        """
        Return the file's credential, or None where it has none. Its locals hold the content: only OSError leaves it.
        """
        with open(self._path, "rb", opener=_promptly) as file:
            found = os.fstat(file.fileno())
            content = file.read(_LARGEST) if stat.S_ISREG(found.st_mode) else b""
        remedy = "set perms = 0600 in the agent's template, or chmod 600 it"
        log_open_file(str(self._path), found.st_mode, remedy)
        self._settled = _signature(found) == self._signature
        self._signature = _signature(found)
        return credential_in(_parsed(content, self._format), self._user_field, self._password_field)

    def _reason(self) -> str:
        return (
            f"it is not, or not yet, a {self._format} file with texts in {self._user_field!r} and "
            f"{self._password_field!r}: check the template, and format, user_field and password_field"
        )


def _promptly(path: str, flags: int) -> int:
    """
    Open *path* without waiting: a pipe that nobody writes to must not hold a look up.
    """
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _signature(found: os.stat_result) -> _Signature:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _parsed(content: bytes, form: str) -> Any:
    """
    Return the fields in *content*, or None. Raises nothing: a parser's error would quote the content.
    """
    try:
        text = content.decode()
        return json.loads(text) if form == "json" else _assignments(text)
    except (ValueError, RecursionError):
        return None


def _assignments(text: str) -> dict[str, str] | None:
    """
    Return the assignments of a dotenv file, or None where a line is none: it may be half of one.
    """
    found = {}
    for line in text.splitlines():
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        assignment = _ASSIGNMENT.fullmatch(words)
        value = None if assignment is None else _value(assignment[2])
        if assignment is None or value is None:
            return None
        found[assignment[1]] = value
    return found


def _value(words: str) -> str | None:
    if words[:1] in ("'", '"'):
        quoted = _QUOTED.fullmatch(words)
        if quoted is None:
            return None
        return _ESCAPED.sub(r"\1", quoted[1]) if quoted[1] is not None else quoted[2]
    return re.split(r"\s+#", words, maxsplit=1)[0].strip()
