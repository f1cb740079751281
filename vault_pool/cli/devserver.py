"""
`vault-pool devserver`: Vault's API on a PostgreSQL, until it is interrupted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict

from vault_pool.cli.interruption import Interruption
from vault_pool.devserver import DevServer, DevServerError
from vault_pool.devserver.faults import KINDS, parse
from vault_pool.devserver.flavor import FLAVORS
from vault_pool.devserver.postgres import EmbeddedPostgres

_ROLE = "app"


@click.command("devserver")
@click.option("--port", default=8200, show_default=True, help="The port to listen at; 0: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--allow-remote", is_flag=True, help="Listen at an address that other machines can reach.")
@click.option("--root-token", envvar="VAULT_DEV_ROOT_TOKEN_ID", help="The root token; random if not given.")
@click.option(
    "--flavor", type=click.Choice(list(FLAVORS)), default="openbao", show_default=True, help="Whom to imitate."
)
@click.option("--tls", is_flag=True, help="Serve HTTPS, with a certificate made for this run.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND[,NAME=VALUE…]",
    help=f"Inject a fault, such as slow,path=database/creds,seconds=2,times=3. Kinds: {', '.join(KINDS)}.",
)
@click.option("--postgres", "postgres_url", metavar="URL", help="An administrator's URL; else an embedded PostgreSQL.")
def devserver(
    *,
    port: int,
    host: str,
    allow_remote: bool,
    root_token: str | None,
    flavor: str,
    tls: bool,
    faults: tuple[str, ...],
    postgres_url: str | None,
) -> None:
    """
    Run a development Vault with a database role that is ready to read. NOT FOR PRODUCTION.

    Everything is in memory and gone at the end; the database roles that are left are dropped then. Faults can also be
    injected later: POST /devserver/faults {"fault": KIND, …} with the root token; GET shows them, DELETE ends them.
    """
    try:
        injected = [parse(text) for text in faults]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from None
    interruption = Interruption()
    try:
        with contextlib.ExitStack() as stack:
            # Before anything is started: a signal that comes early must not leave a PostgreSQL behind.
            stack.enter_context(interruption.handling())
            url = postgres_url or stack.enter_context(EmbeddedPostgres()).url()
            server = stack.enter_context(
                DevServer(root_token, host=host, port=port, flavor=flavor, tls=tls, allow_remote=allow_remote)
            )
            server.enable_database(url)
            server.add_role(_ROLE)
            for fault in injected:
                server.faults.inject(fault)
            for line in _greeting(server, url, show_token=root_token is None):
                click.echo(line)
            while not interruption.asked:
                time.sleep(0.1)
    except (ValueError, OSError, RuntimeError, DevServerError, psycopg.Error) as error:
        raise click.ClickException(str(error)) from None


def _greeting(server: DevServer, postgres_url: str, *, show_token: bool) -> Iterator[str]:
    """
    Yield what a user needs to know; a token that the user gave is not repeated.
    """
    yield "A development server: in memory, not safe, NOT FOR PRODUCTION. Ctrl-C ends it."
    yield ""
    yield f"  export VAULT_ADDR={server.address} BAO_ADDR={server.address}"
    if server.ca_file is not None:
        yield f"  export VAULT_CACERT={server.ca_file} BAO_CACERT={server.ca_file}"
    if show_token:
        yield f"  export VAULT_TOKEN={server.root_token} BAO_TOKEN={server.root_token}"
    # What an application's settings say beside Vault: the place, not the administrator.
    place = conninfo_to_dict(postgres_url)
    names = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE"}
    yield "  export " + " ".join(f"{name}={place[key]}" for key, name in names.items() if place.get(key))
    yield ""
    yield f"  vault read database/creds/{_ROLE}"
    yield f"  vault lease renew database/creds/{_ROLE}/…"
    yield f'  curl -H "X-Vault-Token: $VAULT_TOKEN" $VAULT_ADDR/v1/database/creds/{_ROLE}'
    yield ""
