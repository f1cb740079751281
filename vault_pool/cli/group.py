"""
The commands, each loaded when it is called: ``vault-pool --help`` imports none of them.
"""

from __future__ import annotations

import importlib
from typing import ClassVar, NamedTuple

import click

from vault_pool import __version__


class Home(NamedTuple):
    """
    Where a command lives, the extra that it needs, and its line of help.
    """

    module: str
    extra: str
    short_help: str


class MissingExtra(click.ClickException):
    """
    A package of an extra is not installed.
    """

    exit_code = 2


class LazyGroup(click.Group):
    """
    A group whose commands are attributes of modules, of the same name.
    """

    homes: ClassVar[dict[str, Home]] = {
        "check": Home("vault_pool.cli.check", "binary", "Try the settings: get a credential and log in with it."),
        "demo": Home("vault_pool.cli.demo.command", "dev", "Rotate credentials under load, and watch."),
        "devserver": Home("vault_pool.cli.devserver", "dev", "Run a development Vault with a PostgreSQL."),
        "settings": Home("vault_pool.cli.settings", "cli", "Print the table of settings."),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """
        Return the names, sorted.
        """
        return sorted({*self.homes, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """
        Load the command; raise `MissingExtra` where something that it imports is not installed.
        """
        home = self.homes.get(cmd_name)
        if home is None:
            return super().get_command(ctx, cmd_name)
        try:
            module = importlib.import_module(home.module)
        except ImportError as error:
            # psycopg without libpq raises an ImportError that names no module, and explains it in a paragraph.
            missing = (error.name or "libpq").partition(".")[0]
            if missing == "vault_pool":
                raise
            raise MissingExtra(
                f"`{cmd_name}` needs {missing}, which is not installed: pip install 'vault_pool[{home.extra}]'"
            ) from None
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """
        List the commands without loading them.
        """
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.homes[name].short_help) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vault-pool")
def main() -> None:
    """
    PostgreSQL connection pools whose Vault credentials rotate while the application runs.
    """
