"""
``manage.py dbshell``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from django.db.backends.postgresql.client import DatabaseClient as Stock


class DatabaseClient(Stock):
    """
    Runs psql as the user that the pool has now.
    """

    def runshell(self, parameters: Iterable[str]) -> None:
        """
        Lend psql a credential. A connection of it is kept for as long, so that its lease is kept as well.
        """
        connection, settings = self.connection, self.connection.settings_dict
        connection.pool.open()
        with connection.pool.connection() as conn:
            user, password = conn.info.user, conn.info.password
            connection.settings_dict = {**settings, "USER": user, "PASSWORD": password}
            del user, password
            try:
                super().runshell(parameters)
            finally:
                connection.settings_dict = settings

    @classmethod
    def settings_to_cmd_args_env(cls, settings_dict: dict[str, Any], parameters: Iterable[str]) -> Any:
        """
        Add the assumed role to what psql is given.
        """
        args, env = super().settings_to_cmd_args_env(settings_dict, parameters)
        vault = {str(key).lower(): value for key, value in (settings_dict.get("VAULT") or {}).items()}
        role = settings_dict["OPTIONS"].get("assume_role") or vault.get("assume_role")
        if role:
            options = settings_dict["OPTIONS"].get("options") or os.environ.get("PGOPTIONS", "")
            escaped = str(role).replace("\\", "\\\\").replace(" ", "\\ ")
            env = {**(env or {}), "PGOPTIONS": f"{options} -c role={escaped}".strip()}
        return args, env
