"""
psycopg 3 connection pools whose Vault or OpenBao credentials rotate while the application runs.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vault_pool.core.lease import Credential as Credential
    from vault_pool.core.policy import RenewalPolicy as RenewalPolicy
    from vault_pool.errors import (
        ConfigurationError as ConfigurationError,
        LeaseLost as LeaseLost,
        LoginFailed as LoginFailed,
        PoolClosed as PoolClosed,
        PoolError as PoolError,
        PoolTimeout as PoolTimeout,
        ProofFailed as ProofFailed,
        SourceError as SourceError,
        TooManyRequests as TooManyRequests,
        VaultDenied as VaultDenied,
        VaultError as VaultError,
        VaultPoolError as VaultPoolError,
        VaultRefused as VaultRefused,
        VaultUnavailable as VaultUnavailable,
    )
    from vault_pool.pool import PoolStatus as PoolStatus, VaultPool as VaultPool
    from vault_pool.runtime.hot_swap import HotSwapPool as HotSwapPool
    from vault_pool.sources.agent_file import AgentFile as AgentFile
    from vault_pool.sources.callback import Callback as Callback
    from vault_pool.sources.dynamic_role import DynamicRole as DynamicRole
    from vault_pool.sources.fixed import Fixed as Fixed
    from vault_pool.sources.kv import KV as KV
    from vault_pool.sources.static_role import StaticRole as StaticRole
    from vault_pool.vault.auth import (
        JWT as JWT,
        LDAP as LDAP,
        AgentToken as AgentToken,
        AppRole as AppRole,
        CustomLogin as CustomLogin,
        Kubernetes as Kubernetes,
        TLSCertificate as TLSCertificate,
        Token as Token,
        UserPass as UserPass,
    )
    from vault_pool.vault.client import Vault as Vault

_HOMES = {
    "vault_pool.core.lease": ["Credential"],
    "vault_pool.core.policy": ["RenewalPolicy"],
    "vault_pool.errors": [
        "ConfigurationError",
        "LeaseLost",
        "LoginFailed",
        "PoolClosed",
        "PoolError",
        "PoolTimeout",
        "ProofFailed",
        "SourceError",
        "TooManyRequests",
        "VaultDenied",
        "VaultError",
        "VaultPoolError",
        "VaultRefused",
        "VaultUnavailable",
    ],
    "vault_pool.pool": ["PoolStatus", "VaultPool"],
    "vault_pool.runtime.hot_swap": ["HotSwapPool"],
    "vault_pool.sources.agent_file": ["AgentFile"],
    "vault_pool.sources.callback": ["Callback"],
    "vault_pool.sources.dynamic_role": ["DynamicRole"],
    "vault_pool.sources.fixed": ["Fixed"],
    "vault_pool.sources.kv": ["KV"],
    "vault_pool.sources.static_role": ["StaticRole"],
    "vault_pool.vault.auth": [
        "AgentToken",
        "AppRole",
        "CustomLogin",
        "JWT",
        "Kubernetes",
        "LDAP",
        "TLSCertificate",
        "Token",
        "UserPass",
    ],
    "vault_pool.vault.client": ["Vault"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - the table above is the one list
__version__ = "0.1.0"

logging.getLogger("vault_pool").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """
    Load the home of a public name when the name is first used: importing the package loads no dependency.
    """
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
