"""
`vault-pool settings`: the table of settings.
"""

from __future__ import annotations

import click

from vault_pool.settings.__main__ import markdown


@click.command("settings")
@click.option("--prefix", default="VAULT_POOL_", show_default=True, help="What the variables begin with.")
def settings(*, prefix: str) -> None:
    """
    Print all settings, as Markdown: for the environment, for mappings, and for the frameworks.
    """
    click.echo(markdown(prefix), nl=False)
