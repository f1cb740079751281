"""
A database user whose password Vault changes: Vault's static roles.
"""

from __future__ import annotations

from typing import Any

from vault_pool.errors import VaultRefused
from vault_pool.sources.base import Issued
from vault_pool.sources.polled import PolledInVault, credential_of
from vault_pool.vault.answer import seconds
from vault_pool.vault.client import Vault
from vault_pool.vault.paths import checked_mount_point, checked_role

#: Vault looks every 5 s which passwords are due (OpenBao source, rotation.go, "queueTickSeconds"): it is late by that.
_AFTER = 1.0
_SPREAD = 5.0
#: The first and the longest pause between two looks while Vault is late, in seconds, of which half is spread.
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0


class StaticRole(PolledInVault):
    """
    A source that reads ``<mount_point>/static-creds/<role>``: one user, whose password Vault rotates.

    It is read after each rotation, by ``ttl`` and a little later. ``ttl`` alone is not believed: it can jump to the
    next period before the password has changed, so until ``last_vault_rotation`` has moved the role is read again,
    at pauses that grow to half a minute. Open sessions outlive a change of password (PostgreSQL documentation,
    "Password Authentication": it is asked for at login only); the pool that has the new one takes over.

    Thread-safe. `read` raises `VaultPoolError` only.
    """

    def __init__(self, role: str, *, vault: Vault, mount_point: str = "database") -> None:
        self._path = f"{checked_mount_point(mount_point, 'a database engine')}/static-creds/{checked_role(role)}"
        super().__init__(self._path, vault)
        self._rotated: Any = None
        self._period: Any = None
        self._due = float("-inf")
        # The pause before the next look, while Vault is late.
        self._late = 0.0

    def read(self, now: float) -> Issued:
        """
        Return the credential as it is now.
        """
        answer = self._vault.call("GET", self._path)
        credential = credential_of(answer)
        if credential is None:
            raise VaultRefused(
                f"Vault's answer to GET {self._path} is no username and password: "
                "is it a static role of the database engine, with credential_type=password?",
                status=answer.status,
            )
        data = answer.data
        pause = self._pause(
            now,
            changed=credential != self._known,
            rotated=data.get("last_vault_rotation"),
            period=data.get("rotation_period") or data.get("rotation_schedule"),
            ttl=max(0.0, seconds(data.get("ttl")) - answer.age),
        )
        return self._issued(credential, now, *pause)

    def _pause(self, now: float, *, changed: bool, rotated: Any, period: Any, ttl: float) -> tuple[float, float]:
        """
        Return after how many seconds to look again, and by how many more that may be spread.
        """
        same = not changed and rotated == self._rotated and period == self._period
        if same and now >= self._due:
            # The period is over and Vault has not rotated yet, whatever *ttl* says of the next one.
            self._late = min(_LONGEST_PAUSE, self._late * 2 or _FIRST_PAUSE)
            return self._late / 2, self._late / 2
        self._rotated, self._period, self._due, self._late = rotated, period, now + ttl, 0.0
        return ttl + _AFTER, _SPREAD
