"""
What ``DATABASES[alias]`` makes of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from vault_pool import ConfigurationError, VaultPool

_FORBIDDEN_OPTIONS = ("user", "password", "passfile", "service")


class DjangoPool(VaultPool[Any]):
    """
    A `VaultPool` as Django opens pools, often and never waiting, and prepares connections, by a *template* wrapper.
    """

    def __init__(
        self, *args: Any, template: Any, configure: Callable[[Any], None] | None = None, **kwargs: Any
    ) -> None:
        #: A wrapper of its own, since `configure` is called by the threads of the pool, and wrappers belong to one.
        self.template = template

        def both(conn: Any) -> None:
            if template._configure_connection(conn) and not conn.autocommit:
                conn.commit()
            if configure is not None:
                configure(conn)

        super().__init__(*args, configure=both, **kwargs)

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """
        Begin the watch, if that was not done; checkouts wait for the first credential.
        """
        super().open(wait, timeout)


def new_pool(alias: str, database: Mapping[str, Any], **arguments: Any) -> DjangoPool:
    """
    Return the pool that ``DATABASES[alias]`` describes; raise `ImproperlyConfigured`, which names the setting.

    *arguments* are further ones of `DjangoPool`, and go before ``VAULT``. Nothing is opened.
    """
    made = _made(alias, database, arguments)
    del database, arguments
    if isinstance(made, str):
        raise ImproperlyConfigured(made)
    return made


def _made(alias: str, database: Mapping[str, Any], arguments: dict[str, Any]) -> DjangoPool | str:
    """
    Return the pool, or what is wrong. Raises nothing: its locals may hold secrets.
    """
    place = f"DATABASES[{alias!r}]"
    problem = _problem(place, database)
    if problem:
        return problem
    settings = dict(database["VAULT"])
    names = {str(key).lower() for key in settings}
    # In capitals where VAULT is, so that errors are too.
    capitals = all(str(key).isupper() for key in settings)
    for key, value in _options(database).items():
        if key in names:
            return f"{place}: {key} is in VAULT and in OPTIONS: remove one of them"
        settings[key.upper() if capitals else key] = value
        names.add(key)
    ours: dict[str, Any] = {"name": alias}
    if database.get("CONN_HEALTH_CHECKS"):
        ours["check"] = DjangoPool.check_connection
    ours = {key: value for key, value in ours.items() if key not in names}
    try:
        return DjangoPool.from_config(settings, **{**ours, **arguments})
    except ConfigurationError as error:
        return f"{place}['VAULT']: {error}"


def _problem(place: str, database: Mapping[str, Any]) -> str:
    settings, options = database.get("VAULT"), database.get("OPTIONS") or {}
    if not isinstance(settings, Mapping):
        return (
            f'{place} has no section VAULT: add one, for example "VAULT": {{"ROLE": "shop"}}, '
            "or use the engine django.db.backends.postgresql"
        )
    held = [f"[{key!r}]" for key in ("USER", "PASSWORD") if database.get(key)]
    held += [f"['OPTIONS'][{key!r}]" for key in _FORBIDDEN_OPTIONS if options.get(key)]
    if held:
        return f"{place}{held[0]} cannot be used with VAULT, which brings the user and the password: remove it"
    for section, given in (("['VAULT']", settings), ("['OPTIONS']['pool']", options.get("pool"))):
        if isinstance(given, Mapping) and {"conninfo", "kwargs"} & {str(key).lower() for key in given}:
            return f"{place}{section} cannot say where the database is: HOST, PORT, NAME and OPTIONS beside it do"
    return ""


def _options(database: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what ``OPTIONS`` says to the pool.
    """
    options = database.get("OPTIONS") or {}
    pool, role = options.get("pool"), options.get("assume_role")
    return {**(pool if isinstance(pool, Mapping) else {}), **({"assume_role": role} if role else {})}
