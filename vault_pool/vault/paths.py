"""
Paths of Vault's API, as settings name parts of them.
"""

from __future__ import annotations

import re

from vault_pool.errors import ConfigurationError

_MOUNT_POINT = re.compile(r"[^\s/?#%]+(/[^\s/?#%]+)*")


# Vault's own rule for names of roles (vault: framework.GenericNameWithAtRegex).
_ROLE = re.compile(r"\w([\w.@-]*\w)?", re.ASCII)


def checked_role(role: object) -> str:
    """
    Return *role*; raise `ConfigurationError` where it cannot be the name of a role.
    """
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise ConfigurationError(f"role must be the name of a role of Vault's database engine, not {role!r}")
    return role


def checked_mount_point(mount_point: object, what: str) -> str:
    """
    Return *mount_point* without slashes around it; raise `ConfigurationError` where it cannot be the path of *what*.
    """
    path = mount_point.strip("/") if isinstance(mount_point, str) else ""
    if not _MOUNT_POINT.fullmatch(path) or ".." in path.split("/"):
        raise ConfigurationError(f"mount_point must be the path of {what}, not {mount_point!r}")
    return path
