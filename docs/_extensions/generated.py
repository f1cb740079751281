"""
What the pages take from the code: `{generated} settings`, `cli`, `events`, `layers` and `lease`.

Nothing of it is written down twice, so nothing of it can be stale.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from docutils import nodes
from docutils.statemachine import StringList
from lease_diagram import svg, table
from sphinx.util.docutils import SphinxDirective

import vault_pool
from tests.test_architecture import LAYERS
from vault_pool import events
from vault_pool.cli import main
from vault_pool.settings.__main__ import markdown as settings

PACKAGE = Path(vault_pool.__file__).parent
#: In the order in which they may import each other.
ORDER = [name for layer in LAYERS for name in layer]

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def command_line() -> str:
    """Return the help of every command, as the terminal shows it."""
    os.environ.update({"COLUMNS": "100", "NO_COLOR": "1"})
    parts = [_help(main, "vault-pool")]
    with click.Context(main, info_name="vault-pool") as context:
        for name in main.list_commands(context):
            command = main.get_command(context, name)
            assert command is not None
            parts.append(f"## {name}\n\n{_help(command, f'vault-pool {name}')}")
    return "\n\n".join(parts)


def _help(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    return f"```text\n{command.get_help(context)}\n```"


def event_table() -> str:
    """Return a table of the events."""
    lines = ["| event | what happened | what it tells |", "|---|---|---|"]
    kinds = [kind for _, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, events.Event)]
    for kind in sorted(kinds, key=lambda kind: inspect.getsourcelines(kind)[1]):
        if kind is events.Event:
            continue
        told = ", ".join(f"`{field.name}`" for field in fields(kind))
        lines.append(f"| `{kind.__name__}` | {' '.join(inspect.getdoc(kind).split())} | {told} |")
    return "\n".join(lines)


def layers() -> str:
    """Return a table of the packages and modules, with the first line of what each says of itself."""
    lines = ["| | |", "|---|---|"]
    for path in sorted([*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("*.py")], key=_rank):
        inside = path.relative_to(PACKAGE)
        name = f"{inside.parent}/" if inside.name == "__init__.py" else str(inside)
        documented = ast.get_docstring(ast.parse(path.read_text())) or ""
        if name not in ("./", "__main__.py"):
            first = " ".join(documented.partition(".\n")[0].split()).rstrip(".")
            lines.append(f"| `{name}` | {first} |")
    return "\n".join(lines)


def _rank(path: Path) -> tuple[int, str]:
    name = path.parent.name if path.name == "__init__.py" else path.stem
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


class Generated(SphinxDirective):
    """Markdown that the code gives."""

    required_arguments = 1
    makers: ClassVar[dict[str, Callable[[], str]]] = {
        "cli": command_line,
        "events": event_table,
        "layers": layers,
        "lease": table,
        "settings": settings,
    }

    def run(self) -> list[nodes.Node]:
        """Parse what the maker of that name returns."""
        name = self.arguments[0]
        text = StringList(self.makers[name]().splitlines(), "generated")
        container = nodes.container()
        self.state.nested_parse(text, self.content_offset, container, match_titles=True)
        picture = [nodes.raw("", svg(), format="html")] if name == "lease" else []
        return [*picture, *container.children]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
