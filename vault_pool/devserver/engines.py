"""
The engines that can be mounted, by Vault's names for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from vault_pool.devserver.approle import AppRoleEngine
from vault_pool.devserver.database import DatabaseEngine
from vault_pool.devserver.framework import Engine

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

SECRETS: Final[Mapping[str, Callable[[Core], Engine]]] = {"database": DatabaseEngine}
AUTH: Final[Mapping[str, Callable[[Core], Engine]]] = {"approle": AppRoleEngine}
