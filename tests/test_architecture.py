"""
The import direction of the package, executed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vault_pool

ROOT = Path(vault_pool.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# Left never imports right; a module belongs to the longest prefix of its name.
LAYERS = [
    ["core"],
    ["errors", "events"],
    ["sources.base"],
    ["runtime"],
    ["vault"],
    ["sources"],
    ["settings"],
    ["pool"],
    [""],
    # What applications are made of: the public names only, which the test below sees to.
    ["flask", "django", "sqlalchemy"],
    ["cli", "__main__"],
]
INTEGRATIONS = ("flask", "django", "sqlalchemy")
ISLAND = "devserver"
MAY_ENTER_THE_ISLAND = {"cli", "testing", "pytest_plugin"}
CORE_MAY_IMPORT = {"__future__", "collections", "dataclasses", "enum", "math", "typing", "vault_pool"}
# One home per dependency; types alone may be spoken of elsewhere.
HOMES = {"hvac": ["vault"], "psycopg_pool": ["runtime.hot_swap", "errors"]}
SEPARATE = ("cli", ISLAND, "__main__")
PUBLIC_MODULES = ("errors", "events")


def name_of(path: Path) -> str:
    """Return the module's name within the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imports(path: Path) -> set[str]:
    """Return the full names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def layer_of(name: str) -> int:
    """Return the number of the layer of a module of the package."""
    best = max(
        (
            prefix
            for layer in LAYERS
            for prefix in layer
            if name == prefix or name.startswith(prefix + ".") or not prefix
        ),
        key=len,
    )
    return next(index for index, layer in enumerate(LAYERS) if best in layer)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_to_the_left(path):
    """Lower layers know nothing of higher ones, and only the command line enters the island."""
    name = name_of(path)
    for imported in imports(path):
        if not within(imported, "vault_pool") or imported == "vault_pool":
            continue
        other = imported.removeprefix("vault_pool.")
        if within(name, ISLAND):
            assert within(other, ISLAND) or within(name, ISLAND) == within(other, ISLAND), f"{name} imports {other}"
        elif within(other, ISLAND):
            assert name.partition(".")[0] in MAY_ENTER_THE_ISLAND, f"{name} imports {other}"
        elif name:
            assert layer_of(other) <= layer_of(name), f"{name} imports {other}"


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith(INTEGRATIONS)], ids=name_of)
def test_integrations_use_public_names(path):
    """What vault_pool.flask and its like are built on, any application could be built on."""
    room = name_of(path).partition(".")[0]
    for imported in imports(path):
        other = imported.removeprefix("vault_pool.")
        if other == imported or within(other, room):
            continue
        assert other in vault_pool.__all__ or any(within(other, name) for name in PUBLIC_MODULES), imported


@pytest.mark.parametrize("path", [path for path in MODULES if within(name_of(path), "core")], ids=name_of)
def test_the_core_is_pure(path):
    """No thread, socket, clock, chance or log."""
    roots = {imported.partition(".")[0] for imported in imports(path)}
    assert roots <= CORE_MAY_IMPORT


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_dependency_has_one_home(path):
    """hvac in vault/, psycopg_pool in hot_swap/; the type aliases of psycopg_pool.abc are free."""
    name = name_of(path)
    if within(name, ISLAND) or within(name, "cli"):
        return
    for dependency, homes in HOMES.items():
        used = {i for i in imports(path) if within(i, dependency) and not within(i, "psycopg_pool.abc")}
        assert not used or any(within(name, home) for home in homes), f"{name} imports {used}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_time_comes_from_the_clock(path):
    """Nothing sleeps or reads the wall clock but the runtime; elapsed seconds may be measured anywhere."""
    name = name_of(path)
    if any(within(name, free) for free in (*SEPARATE, "runtime")):
        return
    source = path.read_text()
    assert not imports(path) & {"time.time", "time.sleep"}
    assert "time.time(" not in source
    assert "time.sleep(" not in source


def test_importing_the_package_loads_no_dependency():
    """`import vault_pool` is cheap: hvac and the frameworks come when they are used, and so does psycopg."""
    code = "import sys, vault_pool; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    loaded = set(output.stdout.split())

    assert not loaded & {"hvac", "requests", "psycopg", "psycopg_pool", "tenacity", "flask", "django", "sqlalchemy"}


def test_using_the_pool_loads_no_hvac():
    """hvac takes longer to import than all the rest: it is loaded by the first request."""
    code = "import sys; from vault_pool import *; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)

    assert not set(output.stdout.split()) & {"hvac", "requests", "flask", "django", "sqlalchemy"}


def test_the_public_names_are_all_there():
    """Every name of __all__ can be loaded, and an unknown one is an AttributeError."""
    for name in vault_pool.__all__:
        assert getattr(vault_pool, name)
    with pytest.raises(AttributeError, match="nonsense"):
        vault_pool.nonsense  # noqa: B018 - it is the access that fails
