"""
Vault's HTTP API on a real PostgreSQL, in memory, for demos and tests. Not for production.
"""

from vault_pool.devserver.clock import ManualClock
from vault_pool.devserver.faults import Injection
from vault_pool.devserver.server import DevServer
from vault_pool.devserver.shortcuts import AppRoleLogin, DevServerError

__all__ = ["AppRoleLogin", "DevServer", "DevServerError", "Injection", "ManualClock"]
