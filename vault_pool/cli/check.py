"""
`vault-pool check`: get a credential by the settings, log in with it, and give it back.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from difflib import get_close_matches

import click
from psycopg import Error

from vault_pool import VaultPool, VaultPoolError
from vault_pool.settings.table import SETTINGS


@click.command("check")
@click.argument("given", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--prefix", default="VAULT_POOL_", show_default=True, help="What the variables begin with.")
@click.option("--rotate", is_flag=True, help="Rotate once, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the status of the pool as JSON.")
def check(*, given: tuple[str, ...], prefix: str, rotate: bool, as_json: bool) -> None:
    """
    Get a credential by the settings, log in with it, and give it back; exit with 1, and say why, where that fails.

    The settings are those of VaultPool.from_env; NAME=VALUE goes before the environment. `vault-pool settings` lists
    them.

        vault-pool check role=shop conninfo="host=db.example.com dbname=shop"
    """
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or name.lower() not in SETTINGS:
            # What follows the name may be a secret.
            nearest = get_close_matches(name.lower(), SETTINGS, 1)
            hint = f"did you mean {nearest[0]}=…?" if nearest else "`vault-pool settings` lists them"
            raise click.BadParameter(f"{name!r} is no setting with a value: {hint}")
        os.environ[f"{prefix}{name}".upper()] = value
    try:
        with VaultPool.from_env(prefix, min_size=1) as pool:
            before = pool.status().user
            if rotate:
                pool.rotate()
            with pool.connection() as conn:
                found = conn.execute("SELECT session_user, current_user").fetchone()
            status = pool.status()
    except (VaultPoolError, Error) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(asdict(status), indent=2))
        return
    session, current = found or ("?", "?")
    acting = "" if session == current else f", acting as {current}"
    until = "" if status.expires_in is None else f", for {status.expires_in:.0f} s"
    after = f", after {before}" if rotate else ""
    click.echo(f"{status.source}: {session} is logged in{acting}{until}{after}")
