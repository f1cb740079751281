"""
AppRole, with a secret_id that is given, lies in a file, or is wrapped in a token of a single use.
"""

from __future__ import annotations

import logging
import os
import re

from vault_pool.errors import ConfigurationError, VaultDenied, VaultError
from vault_pool.vault.answer import Answer, Grant
from vault_pool.vault.auth.material import Material
from vault_pool.vault.environment import variable
from vault_pool.vault.login import LoginClient
from vault_pool.vault.paths import checked_mount_point
from vault_pool.vault.secret import Secret

logger = logging.getLogger("vault_pool.vault")

_LOOKUP = "sys/wrapping/lookup"
_UNWRAP = "sys/wrapping/unwrap"


class AppRole:
    """
    The login for machines: *role_id* and a secret_id (Vault documentation, "AppRole auth method").

    *secret_id* is given, or read from *secret_id_file* at each login, since such files are rewritten. Or it is
    wrapped: *wrapping_token* (or the *wrapping_token_file*) is spent once, and the secret_id kept in memory;
    *role_name* then narrows down whose secret_id it may hold. Without any of them the role must have
    ``bind_secret_id=false``. An object with a wrapping token belongs to one `Vault`.
    """

    _path = "?"
    name = "approle"

    def __init__(
        self,
        role_id: str,
        secret_id: str | None = None,
        *,
        secret_id_file: str | os.PathLike[str] | None = None,
        wrapping_token: str | None = None,
        wrapping_token_file: str | os.PathLike[str] | None = None,
        role_name: str | None = None,
        mount_point: str = "approle",
    ) -> None:
        self._role_id = Secret(role_id)
        given = None if secret_id is None else Secret(secret_id)
        wrapped = None if wrapping_token is None else Secret(wrapping_token)
        del role_id, secret_id, wrapping_token
        if not self._role_id.sendable:
            raise ConfigurationError("role_id (VAULT_ROLE_ID) must be a printable text, and not empty")
        mount_point = checked_mount_point(mount_point, "an AppRole auth method")
        self._path = f"auth/{mount_point}/login"
        plain = given is not None or secret_id_file is not None
        enveloped = wrapped is not None or wrapping_token_file is not None
        if plain and enveloped:
            raise ConfigurationError("give a secret_id or a wrapping_token that holds one, not both")
        if role_name is not None and not enveloped:
            raise ConfigurationError("role_name is for a wrapping_token: it names the role whose secret_id that holds")
        self._secret_id = Material("secret_id", given, secret_id_file) if plain else None
        self._envelope = (
            Envelope(Material("wrapping_token", wrapped, wrapping_token_file), mount_point, role_name)
            if enveloped
            else None
        )

    @classmethod
    def from_env(cls, *, mount_point: str = "approle") -> AppRole:
        """
        Take ``VAULT_ROLE_ID`` and ``VAULT_SECRET_ID`` or ``VAULT_SECRET_ID_FILE`` (``BAO_…`` first), now.

        Half of them is an error: a role with ``bind_secret_id=false`` is for ``AppRole(role_id)`` in the code.
        """
        both = "set VAULT_ROLE_ID, and VAULT_SECRET_ID or VAULT_SECRET_ID_FILE"
        if not variable("ROLE_ID"):
            raise ConfigurationError(f"no role_id: {both}")
        if not variable("SECRET_ID") and not variable("SECRET_ID_FILE"):
            raise ConfigurationError(f"VAULT_ROLE_ID is set, but no secret_id: {both}")
        return cls(
            variable("ROLE_ID") or "",
            variable("SECRET_ID") or None,
            secret_id_file=variable("SECRET_ID_FILE") or None,
            mount_point=mount_point,
        )

    def login(self, client: LoginClient) -> Grant:
        """
        Log in with the role_id and the secret_id as it is now.
        """
        body = {"role_id": self._role_id}
        if self._envelope is not None:
            body["secret_id"] = self._envelope.open(client)
        elif self._secret_id is not None:
            body["secret_id"] = self._secret_id.read()
        material = self._secret_id or self._envelope
        return client.login(self._path, body, may_change=material is not None and material.may_change)

    def __repr__(self) -> str:
        return f"AppRole(<secret>, path={self._path!r})"


class Envelope:
    """
    A wrapping token that holds a secret_id of a role at *mount_point*, by the name of *role_name* where that is known.

    Where it comes from is checked before it is opened, since whoever swapped it cannot change what Vault says of its
    creation; and a token that somebody opened before us is an alarm (Vault documentation, "Response wrapping",
    "Response wrapping token validation"). Each token is asked about once.
    """

    def __init__(self, token: Material, mount_point: str, role_name: str | None) -> None:
        self._token = token
        role = re.escape(role_name) if role_name else "[^/]+"
        self._expected = re.compile(rf"auth/{re.escape(mount_point)}/role/{role}/secret-id")
        self._wanted = f"auth/{mount_point}/role/{role_name or '<role>'}/secret-id"
        self._known: tuple[Secret, Secret | str] | None = None
        self._doubtful: Secret | None = None

    @property
    def may_change(self) -> bool:
        """
        Whether another wrapping token may come.
        """
        return self._token.may_change

    def open(self, client: LoginClient) -> Secret:
        """
        Return the secret_id, unwrapping it first where that was not done. Raises `VaultDenied` for a token that was
        tampered with or is spent, and other `VaultError`s for what may pass.
        """
        token = self._token.read()
        if self._known is None or self._known[0] != token:
            found = self._examined(client, token)
            if isinstance(found, str):
                logger.error("%s", found)
            self._known = (token, found)
        found = self._known[1]
        if isinstance(found, str):
            raise VaultDenied(found, status=None)
        return found

    def _examined(self, client: LoginClient, token: Secret) -> Secret | str:
        """
        Return the secret_id, or what is wrong with *token* for good.
        """
        origin = client.ask("POST", _LOOKUP, {"token": token})
        if isinstance(origin, VaultError):
            return self._refused(origin, token)
        path = origin.data.get("creation_path")
        if not isinstance(path, str) or not self._expected.fullmatch(path):
            return (
                f"wrapping_token was made by {path!r} and not by {self._wanted!r}: it was not unwrapped; somebody may "
                "have put it in the place of the real one, and have the secret_id"
            )
        answer = client.ask("POST", _UNWRAP, token=token)
        if isinstance(answer, VaultError):
            if not answer.created_nothing:
                self._doubtful = token
            return self._refused(answer, token)
        return _secret_id(answer) or f"wrapping_token holds no secret_id, though it was made by {path!r}"

    def _refused(self, error: VaultError, token: Secret) -> str:
        if error.status != 400:
            raise error
        ours = " or by a request of ours whose answer was lost," if token == self._doubtful else ""
        return (
            f"wrapping_token is not valid any more: it has expired, or was unwrapped before{ours} and then the "
            "secret_id may have been stolen; have it revoked, and a new one wrapped"
        )


def _secret_id(answer: Answer) -> Secret | None:
    """
    Return the secret_id of *answer*, or None. Raises nothing: its locals hold it in clear.
    """
    secret_id = Secret(answer.data.get("secret_id") or "")
    return secret_id if secret_id.sendable else None
