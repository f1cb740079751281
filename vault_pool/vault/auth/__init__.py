"""
Logins: how we come by a token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vault_pool.errors import ConfigurationError
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
    "METHODS",
    "AgentToken",
    "AppRole",
    "Auth",
    "ClientToken",
    "CustomLogin",
    "Kubernetes",
    "TLSCertificate",
    "Token",
    "UserPass",
    "auth_from_settings",
]

#: The logins that settings can name.
METHODS: Mapping[str, Callable[..., Auth]] = {
    "token": Token,
    "approle": AppRole,
    "kubernetes": Kubernetes,
    "jwt": JWT,
    "userpass": UserPass,
    "ldap": LDAP,
    "cert": TLSCertificate,
    "agent": AgentToken,
}


def auth_from_settings(method: str, settings: Mapping[str, Any]) -> Auth:
    """
    Return the login of the name *method*, made with *settings*; raise `ConfigurationError` for what cannot be.
    """
    made = _made(method, settings)
    del settings
    if isinstance(made, str):
        raise ConfigurationError(made)
    return made


def _made(method: str, settings: Mapping[str, Any]) -> Auth | str:
    """
    Return the login, or what is wrong. Raises nothing: its locals may hold a secret in clear.
    """
    make = METHODS.get(method)
    if make is None:
        return f"auth must be one of {', '.join(METHODS)}, not {method!r}"
    parameters = inspect.signature(make).parameters
    unknown = [name for name in settings if name not in parameters]
    if unknown:
        known = ", ".join(parameters) or "none"
        return f"auth={method!r} has no setting {', '.join(map(repr, unknown))}; it has: {known}"
    missing = [
        name for name, each in parameters.items() if each.default is inspect.Parameter.empty and name not in settings
    ]
    if missing:
        return f"auth={method!r} needs the setting {', '.join(map(repr, missing))}"
    try:
        return make(**settings)
    except ConfigurationError as error:
        return str(error)
