"""
Paths of Vault's API, as settings name parts of them.
"""

from __future__ import annotations

import re

from vault_pool.errors import ConfigurationError

_PATH = re.compile(r"[^\s/?#%]+(/[^\s/?#%]+)*")
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
    return _checked("mount_point", mount_point, f"the path of {what}")


def checked_path(path: object) -> str:
    """
    Return *path* without slashes around it; raise `ConfigurationError` where it cannot be the path of a secret.
    """
    return _checked("path", path, "the path of a secret below mount_point")


def _checked(setting: str, value: object, what: str) -> str:
    path = value.strip("/") if isinstance(value, str) else ""
    if not _PATH.fullmatch(path) or ".." in path.split("/"):
        raise ConfigurationError(f"{setting} must be {what}, not {value!r}")
    return path
