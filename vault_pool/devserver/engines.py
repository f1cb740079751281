"""
The engines that can be mounted, by Vault's names for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from vault_pool.devserver.approle import AppRoleEngine
from vault_pool.devserver.cert import CertEngine
from vault_pool.devserver.database import DatabaseEngine
from vault_pool.devserver.framework import Engine
from vault_pool.devserver.jwt import JwtEngine
from vault_pool.devserver.kubernetes import KubernetesEngine
from vault_pool.devserver.kv import KvEngine
from vault_pool.devserver.kv_versioned import VersionedKvEngine
from vault_pool.devserver.ldap import LdapEngine
from vault_pool.devserver.userpass import UserPassEngine

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
AUTH: Final[Mapping[str, Maker]] = {
    "approle": lambda core, _options: AppRoleEngine(core),
    "cert": lambda core, _options: CertEngine(core),
    "jwt": lambda core, _options: JwtEngine(core),
    "kubernetes": lambda core, _options: KubernetesEngine(core),
    "ldap": lambda core, _options: LdapEngine(core),
    "userpass": lambda core, _options: UserPassEngine(core),
}
# vault: names for a type with options.
ALIASES: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "generic": ("kv", {"version": "1"}),
    "kv-v1": ("kv", {"version": "1"}),
    "kv-v2": ("kv", {"version": "2"}),
}
