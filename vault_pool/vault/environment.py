"""
The environment variables that Vault's and OpenBao's own clients read.
"""

from __future__ import annotations

import os
import re

from vault_pool.errors import ConfigurationError

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUE = ("1", "t", "true")
_FALSE = ("", "0", "f", "false")


def variable(name: str) -> str | None:
    """
    Return ``BAO_<name>``, else ``VAULT_<name>``, else None.

    A ``BAO_`` variable that is set wins even when it is empty, as in OpenBao's own client.
    """
    return os.environ.get(f"BAO_{name}", os.environ.get(f"VAULT_{name}"))


def flag(name: str) -> bool:
    """
    Return the variable *name* as Go reads a boolean; raise `ConfigurationError` for anything else.
    """
    text = (variable(name) or "").lower()
    if text not in (*_TRUE, *_FALSE):
        raise ConfigurationError(f"VAULT_{name} must be true or false, not {text!r}")
    return text in _TRUE


def duration(name: str, default: float) -> float:
    """
    Return the variable *name* in seconds: a number, or Go's notation ("60s", "1m30s").
    """
    text = variable(name)
    if not text:
        return default
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|[smh]))+|\d+(\.\d+)?", text):
        raise ConfigurationError(f"VAULT_{name} must be a number of seconds, or a duration as 60s, not {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|[smh]?)", text))


def proxies() -> dict[str, str]:
    """
    Return what ``HTTPS_PROXY`` and its kin say now: by scheme, and under "no" the hosts that are reached without.

    Both spellings count, the lower one first, as everywhere (Python documentation, ``getproxies_environment``).
    """
    if not any(name.lower().endswith("_proxy") and text for name, text in os.environ.items()):
        return {}
    from urllib.request import getproxies_environment  # noqa: PLC0415 - drags in http and email

    return {"no": "", **getproxies_environment()}
