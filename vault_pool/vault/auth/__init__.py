"""
Logins: how we come by a token.
"""

from __future__ import annotations

from vault_pool.vault.auth.approle import AppRole
from vault_pool.vault.auth.base import Auth
from vault_pool.vault.auth.certificate import TLSCertificate
from vault_pool.vault.auth.custom import CustomLogin
from vault_pool.vault.auth.jwt import JWT, Kubernetes
from vault_pool.vault.auth.password import LDAP, UserPass
from vault_pool.vault.auth.token import AgentToken, ClientToken, Token

__all__ = [
    "JWT",
    "LDAP",
    "AgentToken",
    "AppRole",
    "Auth",
    "ClientToken",
    "CustomLogin",
    "Kubernetes",
    "TLSCertificate",
    "Token",
    "UserPass",
]
