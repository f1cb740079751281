"""
The engines that can be mounted, by Vault's names for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from vault_pool.devserver.approle import AppRoleEngine
from vault_pool.devserver.database import DatabaseEngine
from vault_pool.devserver.framework import Engine
from vault_pool.devserver.kv import KvEngine
from vault_pool.devserver.kv_versioned import VersionedKvEngine

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

# From the core and the mount's options.
Maker: TypeAlias = "Callable[[Core, Mapping[str, Any]], Engine]"


def _kv(core: Core, options: Mapping[str, Any]) -> Engine:
    return VersionedKvEngine(core) if str(options.get("version")) == "2" else KvEngine(core)


SECRETS: Final[Mapping[str, Maker]] = {
    "database": lambda core, _options: DatabaseEngine(core),
    "kv": _kv,
}
AUTH: Final[Mapping[str, Maker]] = {"approle": lambda core, _options: AppRoleEngine(core)}
# vault: names for a type with options.
ALIASES: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "generic": ("kv", {"version": "1"}),
    "kv-v1": ("kv", {"version": "1"}),
    "kv-v2": ("kv", {"version": "2"}),
}
