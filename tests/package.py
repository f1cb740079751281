"""
What pip installs, tried with the source tree out of the way.

    python -m tests.package [PYTHON …]     the wheel and the sdist on these interpreters; default: this one
    python -m tests.package --oldest       this tree on the oldest versions that its dependencies' bounds allow

For each interpreter: the wheel alone in a fresh environment runs the README's first example against a server; then the
tests, as the sdist brings them, run against the installed wheel.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.fix_postgres import Database
from tests.fix_vault import running
from vault_pool.devserver.postgres import EmbeddedPostgres

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # coverage and mypy bring it

ROOT = Path(__file__).parents[1]
EXTRAS = "dev,flask,django,sqlalchemy,prometheus,otel"
#: Quick ones that together import everything; the whole suite runs on every Python from the tree.
TESTS = ["tests/unit", "tests/test_packaging.py", "tests/test_architecture.py", "tests/integration/test_readme.py"]


def run(*command: str | Path, cwd: Path, **more: str) -> None:
    """Run *command* and end the whole thing, with what it wrote, when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**environment, **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}")
    last = done.stdout.strip().splitlines()[-1:] or [""]
    if re.search(r"\d passed", last[0]):
        say(f"  {last[0].strip('= ')}")


def say(line: str) -> None:
    """Print *line* now."""
    print(line, flush=True)  # noqa: T201 - it is a command


@contextlib.contextmanager
def environment(python: str, folder: Path) -> Iterator[Path]:
    """A fresh virtual environment; yield its interpreter."""
    run(python, "-m", "venv", folder / "env", cwd=folder)
    inside = folder / "env" / "bin" / "python"
    run(inside, "-m", "pip", "install", "-q", "pip>=25.1", cwd=folder)
    yield inside
    shutil.rmtree(folder / "env")


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist from a copy of the tree, and the wheel from the sdist; return both."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def twelve_lines(python: Path, folder: Path) -> None:
    """Run the README's first example, in an empty folder, by *python*, against the best server that there is."""
    kind = next((name for name in ("bao", "vault") if shutil.which(name)), "devserver")
    (code, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    with EmbeddedPostgres() as postgres, running(kind) as server:
        database = Database(postgres)
        server.database_role(database, "shop")
        login = server.approle()
        code = code.replace("https://vault.example.com:8200", server.address)
        code = code.replace("host=db.example.com dbname=shop", database.conninfo())
        code = code.replace("AppRole.from_env()", f"AppRole.from_env(mount_point={login.mount_point!r})")
        code = code.replace("vault=vault", f"vault=vault, mount_point={server.mount!r}")
        example = folder / "example.py"
        example.write_text(code)
        run(
            python,
            "-I",
            "-W",
            "error",
            example,
            cwd=folder,
            VAULT_ROLE_ID=login.role_id,
            VAULT_SECRET_ID=login.secret_id,
        )
        left = [server.leases(), database.roles()]
        server.close()
        database.drop()
    if left != [[], []]:
        raise SystemExit(f"the example left leases or roles: {left}")
    say(f"  the twelve lines served against {kind}, and left nothing")


def try_package(python: str, sdist: Path, wheel: Path) -> None:
    """Try both on one interpreter."""
    began = time.monotonic()
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    say(version)
    with tempfile.TemporaryDirectory(prefix="vault_pool-package-") as name:
        folder = Path(name)
        with environment(python, folder) as inside:
            run(inside, "-m", "pip", "install", "-q", f"{wheel}[binary]", cwd=folder)
            run(inside, "-m", "pip", "check", cwd=folder)
            twelve_lines(inside, folder)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (tree,) = folder.glob("vault_pool-*")
        # The tests must find the installed package.
        shutil.rmtree(tree / "vault_pool")
        with environment(python, folder) as inside:
            run(inside, "-m", "pip", "install", "-q", f"{wheel}[{EXTRAS}]", "--group", "test", cwd=tree)
            run(inside, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *TESTS, cwd=tree)
    say(f"  {time.monotonic() - began:.0f} s")


def oldest(arguments: Sequence[str]) -> None:
    """Install the tree with every dependency at its lower bound, and run the tests on it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    bounds = sorted({re.sub(r"\[.*?\]", "", line).replace(">=", "==") for line in wanted if ">=" in line})
    with tempfile.TemporaryDirectory(prefix="vault_pool-oldest-") as name:
        folder = Path(name)
        constraints = folder / "oldest.txt"
        constraints.write_text("\n".join(bounds) + "\n")
        with environment(sys.executable, folder) as inside:
            install = ["-m", "pip", "install", "-q", "-c", constraints, "--editable", f".[{EXTRAS}]", "--group", "test"]
            run(inside, *install, cwd=ROOT)
            say("\n".join(bounds))
            run(
                inside,
                "-m",
                "pytest",
                "-q",
                "-n",
                "2",
                "--dist",
                "worksteal",
                "-p",
                "no:cacheprovider",
                *arguments,
                cwd=ROOT,
            )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests.package", description=__doc__)
    parser.add_argument("--oldest", action="store_true")
    parser.add_argument("arguments", nargs="*", help="interpreters; with --oldest: tests")
    options = parser.parse_args()
    if options.oldest:
        oldest(
            options.arguments
            or [*TESTS, "tests/integration/test_vault_pool.py", "tests/integration/test_vault_client.py"]
        )
        return
    with tempfile.TemporaryDirectory(prefix="vault_pool-dist-") as name:
        sdist, wheel = build(Path(name))
        say(f"{sdist.name} {wheel.name}")
        for python in options.arguments or [sys.executable]:
            try_package(python, sdist, wheel)


if __name__ == "__main__":
    main()
