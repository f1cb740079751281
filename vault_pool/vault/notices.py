"""
What has to be said once, and not at every request.
"""

from __future__ import annotations

import logging
import stat
import warnings

from vault_pool.runtime import forking

logger = logging.getLogger("vault_pool.vault")

_OTHERS = stat.S_IROTH | stat.S_IWOTH
_said: set[str] = set()
_lock = forking.lock()  # guards _said


def first_time(text: str) -> bool:
    """
    Tell whether *text* was not asked about before, in this process. Thread-safe.
    """
    with _lock:
        first = text not in _said
        _said.add(text)
    return first


def log_once(text: str) -> None:
    """
    Log *text* as a warning, once.
    """
    if first_time(text):
        logger.warning("%s", text)


def log_open_file(what: str, mode: int, remedy: str) -> None:
    """
    Log, once, that everybody can read or write the file *what*, if its *mode* says so.
    """
    if mode & _OTHERS:
        log_once(f"{what} can be read or written by everybody (mode {stat.S_IMODE(mode):04o}): {remedy}")


def warn_once(text: str, stacklevel: int) -> None:
    """
    Log *text* and issue it as a `UserWarning`, once; *stacklevel* is counted from the caller, as `warnings.warn` does.
    """
    if first_time(text):
        logger.warning("%s", text)
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)
