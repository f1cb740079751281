"""
The application ``vault_pool.django``: system checks, and nothing else.
"""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from vault_pool.django.checks import check_databases


class VaultPoolConfig(AppConfig):
    """
    Registers the checks.
    """

    name = "vault_pool.django"
    label = "vault_pool"
    verbose_name = "vault_pool"

    def ready(self) -> None:
        """
        Have ``manage.py check`` look at DATABASES. Nothing is opened: this runs in processes that only start others.
        """
        checks.register(check_databases)
