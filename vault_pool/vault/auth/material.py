"""
The secret that a login presents: given once, or kept in a file that somebody rewrites.
"""

from __future__ import annotations

import os
from pathlib import Path

from vault_pool.errors import ConfigurationError, VaultDenied
from vault_pool.vault.notices import log_open_file
from vault_pool.vault.secret import Secret


class Material:
    """
    A secret that was *given*, or the *file* that holds it, which is read at each login. Immutable.

    *setting* is the name of the argument, that of the file being ``<setting>_file``. *free* allows any text, as for
    a password; otherwise it has to be one printable word, and spaces around it in the file are dropped.
    *public* files are not warned of when everybody may read them.
    Raises `ConfigurationError`, without the value, where neither or both are given, or the value cannot be sent.
    """

    def __init__(
        self,
        setting: str,
        given: Secret | None,
        file: str | os.PathLike[str] | None,
        *,
        free: bool = False,
        public: bool = False,
    ) -> None:
        self._setting = setting
        self._given = given
        self._file = None if file is None else Path(file)
        self._free = free
        self._public = public
        if given is not None and file is not None:
            raise ConfigurationError(f"give {setting} or {setting}_file, not both")
        if given is None and file is None:
            raise ConfigurationError(f"give {setting} or {setting}_file")
        if given is not None and not self._sound(given):
            what = "a text" if free else "a printable text without spaces around it"
            raise ConfigurationError(f"{setting} must be {what}, and not empty")

    @property
    def may_change(self) -> bool:
        """
        Whether the next look may find another secret.
        """
        return self._file is not None

    def read(self) -> Secret:
        """
        Return the secret as it is now; raise `VaultDenied` for a file that cannot be used.
        """
        if self._given is not None:
            return self._given
        assert self._file is not None
        try:
            with self._file.open(encoding="utf-8") as file:
                mode = os.fstat(file.fileno()).st_mode
                secret = Secret(self._stripped(file.read()))
        except (OSError, ValueError) as error:
            # A decoding error quotes the bytes of the file.
            reason = (error.strerror or "it cannot be read") if isinstance(error, OSError) else "it is not text"
        else:
            if not self._public:
                log_open_file(f"{self._setting}_file {str(self._file)!r}", mode, "chmod 600 it")
            if self._sound(secret):
                return secret
            reason = "it is empty" if self._free else "it is empty, or not one line of text"
        raise VaultDenied(f"{self._setting}_file {str(self._file)!r} cannot be used: {reason}", status=None)

    def _stripped(self, text: str) -> str:
        return text.rstrip("\r\n") if self._free else text.strip()

    def _sound(self, secret: Secret) -> bool:
        return secret.is_text if self._free else secret.sendable
