"""
Test databases.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql.creation import DatabaseCreation as Stock


class DatabaseCreation(Stock):
    """
    Ends the pool of a database that is to be copied or dropped: PostgreSQL wants no session in it.
    """

    def _clone_test_db(self, *args: Any, **kwargs: Any) -> None:
        self.connection.close()
        self.connection.end_pool()
        super()._clone_test_db(*args, **kwargs)

    def _destroy_test_db(self, *args: Any, **kwargs: Any) -> None:
        self.connection.end_pool()
        super()._destroy_test_db(*args, **kwargs)
