"""
A database role of its own for each lease: Vault's dynamic roles.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from typing import Any

from vault_pool.core.lease import Lease
from vault_pool.core.machine import Owner
from vault_pool.errors import (
    ConfigurationError,
    LeaseLost,
    VaultDenied,
    VaultPoolError,
    VaultRefused,
    VaultUnavailable,
)
from vault_pool.sources.base import Issued
from vault_pool.sources.polled import credential_of
from vault_pool.vault.answer import Answer, seconds
from vault_pool.vault.client import Vault
from vault_pool.vault.instant import instant
from vault_pool.vault.paths import checked_mount_point, checked_role

logger = logging.getLogger("vault_pool.vault")

_RENEW = "sys/leases/renew"
_REVOKE = "sys/leases/revoke"
_LOOKUP = "sys/leases/lookup"

# Within it a lookup's whole seconds say nothing about whether the end of a lease moved.
_ROUNDING = 2.0


class DynamicRole:
    """
    A source that reads ``<mount_point>/creds/<role>``: each read creates a database role, which lives by its lease.

    Thread-safe. Sources that share a *vault* share its token. The four requests raise `VaultPoolError` only.
    """

    _path = "?"

    def __init__(self, role: str, *, vault: Vault, mount_point: str = "database") -> None:
        if not isinstance(vault, Vault):
            raise ConfigurationError("vault must be a Vault")
        self._vault = vault
        self._path = f"{checked_mount_point(mount_point, 'a database engine')}/creds/{checked_role(role)}"

    def __repr__(self) -> str:
        return f"<DynamicRole {self._path}>"

    @property
    def name(self) -> str:
        """
        The path that is read.
        """
        return self._path

    @property
    def lane(self) -> Hashable:
        """
        The Vault that requests may hang on.
        """
        return self._vault

    def read(self, now: float) -> Issued:
        """
        Return a new credential: a role that Vault creates in the database for it.
        """
        answer = self._vault.call("GET", self._path, issuing=True)
        credential = credential_of(answer)
        lease = Lease.issued(
            answer.lease_id, answer.lease_duration, now, renewable=answer.body.get("renewable") is True
        )
        if answer.cached and lease.lease_id:
            # Though a fresh one was asked for. How old it is, its header may say; what is left of it, only Vault does.
            lease = Lease.issued(lease.lease_id, self._left(lease), now, renewable=lease.renewable)
        if credential is None or not lease.lease_id or lease.duration <= 0:
            self._give_up(lease)
            raise VaultRefused(
                f"Vault's answer to GET {self._path} is no username and password with a lease: "
                "is it a role of the database engine, with credential_type=password?",
                status=answer.status,
            )
        return Issued(credential=credential, lease=lease)

    def renew(self, lease: Lease, now: float) -> Lease:
        """
        Return *lease* with more time; `LeaseLost` where it is over.
        """
        try:
            answer = self._vault.call("PUT", _RENEW, self._renewal(lease, lease.increment))
            longer = None if answer.cached else _renewed(lease, answer, now)
            # Less than nothing was granted (204), or a caching proxy repeats an old answer: that is no proof.
            doubt = VaultUnavailable(f"the renewal of a lease of {self._path} was answered, but not granted")
        except LeaseLost:
            self._vault.ended(lease)
            raise
        except VaultUnavailable as error:
            if error.created_nothing:
                raise
            longer, doubt = None, error
        if longer is None:
            longer = self._looked_up(lease, now)
        if longer is None:
            raise doubt.with_traceback(None)
        self._vault.extended(longer)
        return longer

    def revoke(self, lease: Lease) -> None:
        """
        End *lease*: Vault has dropped the role when this returns.

        Where the token's policies forbid that, the lease is renewed for one second instead, which ends it as well.
        """
        try:
            if self._vault.may_revoke:
                self._revoke(lease)
            else:
                self._shorten(lease)
        except LeaseLost:
            pass
        self._vault.ended(lease)

    def lookup(self, lease: Lease) -> bool:
        """
        Return whether *lease* is in force: Vault knows it, and has not begun to revoke it. Does not change it.
        """
        try:
            data = self._lookup(lease).data
        except LeaseLost:
            return False
        # In its last second it reads 0; what has ended, or could not be revoked, is not renewable any more
        # (Vault API documentation, "Lookup a lease").
        in_force = seconds(data.get("ttl")) > 0 or data.get("renewable") is True
        if not in_force:
            self._vault.ended(lease)
        return in_force

    def owner(self, lease: Lease) -> Owner:
        """
        Return what is known of the token that issued *lease*.
        """
        return self._vault.owner(lease)

    def attach(self, runtime: Any, wake: Callable[[], None]) -> None:
        """
        Begin upkeep of the token.
        """
        self._vault.attach(runtime, wake)

    def detach(self, wake: Callable[[], None]) -> None:
        """
        End what `attach` began with the same *wake*.
        """
        self._vault.detach(wake)

    def _renewal(self, lease: Lease, increment: float) -> dict[str, Any]:
        # In the body, not in the URL: the policy `default` allows the bare path only.
        return {"lease_id": lease.lease_id, "increment": math.ceil(increment)}

    def _revoke(self, lease: Lease) -> None:
        try:
            self._vault.call("PUT", _REVOKE, {"lease_id": lease.lease_id, "sync": True})
        except VaultDenied as error:
            if error.token_dead:
                raise
        except VaultUnavailable as error:
            # It may have been carried out: a lookup that finds no lease raises LeaseLost.
            if not error.created_nothing:
                self._lookup(lease)
            raise
        else:
            return
        if self._vault.forbid_revoking():
            logger.warning(
                "%s: the token's policies lack the capability 'update' for sys/leases/revoke, so that leases are ended "
                'by a renewal for one second; add: path "sys/leases/revoke" { capabilities = ["update"] }',
                self.name,
            )
        self._shorten(lease)

    def _shorten(self, lease: Lease) -> None:
        """
        Have *lease* end in a second: an increment counts from now, and may be shorter than what is left.
        """
        try:
            self._vault.call("PUT", _RENEW, self._renewal(lease, 1))
        except VaultRefused as error:
            logger.info("%s: a lease cannot be ended before its time, and will lapse: %s", self.name, error)

    def _looked_up(self, lease: Lease, now: float) -> Lease | None:
        """
        Return *lease* as a doubtful renewal left it, or None where it did not move the end.
        """
        answer = self._lookup(lease)
        left = seconds(answer.data.get("ttl"))
        if now + left <= lease.expires_at + _ROUNDING:
            return None
        # In the server's clock, and hence exact: what was granted, where the lookup tells when.
        ends, renewed = instant(answer.data.get("expire_time")), instant(answer.data.get("last_renewal"))
        granted = left if ends is None or renewed is None else max(left, round(ends - renewed))
        return lease.renewed(granted, now)

    def _left(self, lease: Lease) -> float:
        try:
            return seconds(self._lookup(lease).data.get("ttl"))
        except LeaseLost:
            raise VaultUnavailable(f"a cache between us and Vault gave a lease of {self._path} that is over") from None

    def _lookup(self, lease: Lease) -> Answer:
        try:
            return self._vault.call("PUT", _LOOKUP, {"lease_id": lease.lease_id})
        except LeaseLost:
            self._vault.ended(lease)
            raise

    def _give_up(self, lease: Lease) -> None:
        """
        End a lease that is of no use to us, if there is one; should that fail, it lapses.
        """
        if lease.lease_id:
            try:
                self.revoke(lease)
            except VaultPoolError as error:
                logger.info("%s: a useless lease was not revoked, and will lapse: %s", self.name, error)


def _renewed(lease: Lease, answer: Answer, now: float) -> Lease | None:
    return lease.renewed(answer.lease_duration, now) if answer.lease_duration > 0 else None
