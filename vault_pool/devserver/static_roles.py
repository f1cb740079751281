"""
Static roles of the database engine: existing database users whose passwords are rotated.

vault: ``builtin/logical/database/path_roles.go``. So far only what dynamic roles share with them: the names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vault_pool.devserver.errors import refused
from vault_pool.devserver.field_types import SECONDS, STRINGS, TEXT
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route


class StaticRoles:
    """
    The paths below `static-roles/`; *taken* tells whether a dynamic role has a name.
    """

    def __init__(self, taken: Callable[[str], bool]) -> None:
        self._taken = taken
        fields = {"db_name": TEXT, "username": TEXT, "rotation_period": SECONDS, "rotation_statements": STRINGS}
        self.routes: Sequence[Route] = (
            Route(pattern="static-roles/?", operations={"list": lambda _request, _fields: None}),
            Route(
                pattern=f"static-roles/{NAME}",
                fields=fields,
                operations={"read": lambda _request, _fields: None, "update": self._write},
            ),
        )

    def _write(self, _request: Request, fields: Fields) -> Reply:
        if self._taken(fields.text("name")):
            raise refused("Role and Static Role names must be unique")
        raise refused("this development server does not rotate static roles")
