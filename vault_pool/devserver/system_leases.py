"""
`sys/leases`: lookup, renewal and revocation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vault_pool.devserver.errors import BackendError, ConnectionDropped, not_found, refused
from vault_pool.devserver.field_types import ANY, FLAG, SECONDS, TEXT
from vault_pool.devserver.framework import Fields, Reply, Request, Route, keys

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core


class LeasePaths:
    """
    The paths of leases. vault: they have older names without `leases/`; OpenBao removed those in 2.5.4.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._leases = core.leases
        old = "leases/" if core.flavor.openbao else "(?:leases/)?"
        in_url = "(?:/(?P<url_lease_id>.+))?"
        lease_id = {"lease_id": ANY}
        prefix = "/(?P<prefix>.+)"
        self.routes: Sequence[Route] = (
            Route(pattern="leases/lookup/(?P<prefix>.*)", operations={"list": self._list}),
            Route(pattern="leases/lookup", fields=lease_id, operations={"update": self._lookup}),
            Route(
                pattern=f"{old}renew{in_url}",
                fields={**lease_id, "increment": SECONDS},
                operations={"update": self._renew},
            ),
            Route(
                pattern=f"{old}revoke{in_url}",
                fields={**lease_id, "sync": FLAG},
                operations={"update": self._revoke},
            ),
            Route(
                pattern=f"{old}revoke-prefix{prefix}",
                fields={"sync": FLAG},
                operations={"update": self._revoke_prefix},
            ),
            Route(pattern=f"{old}revoke-force{prefix}", operations={"update": self._revoke_force}),
            Route(pattern="leases/tidy", operations={"update": self._tidy}),
            Route(pattern="leases/count", fields={"type": TEXT}, operations={"read": self._count}),
            Route(pattern="leases/?", fields={"type": TEXT, "limit": TEXT}, operations={"read": self._irrevocable}),
        )

    def _list(self, _request: Request, fields: Fields) -> Reply | None:
        prefix = fields.text("prefix")
        found: set[str] = set()
        for lease in self._leases.under(prefix):
            name, slash, _ = lease.lease_id[len(prefix) :].partition("/")
            found.add(name + slash)
        return keys(list(found))

    def _lookup(self, _request: Request, fields: Fields) -> Reply:
        lease = self._leases.get(self._lease_id(fields))
        if lease is None:
            raise refused("invalid lease")
        return Reply(data=lease.show(self._core.clock.now()))

    def _renew(self, _request: Request, fields: Fields) -> Reply:
        try:
            lease, duration, warnings = self._leases.renew(self._lease_id(fields), fields.get("increment", 0))
        except BackendError as error:
            raise refused(str(error)) from None
        return Reply(lease=lease, lease_duration=duration, warnings=warnings)

    def _revoke(self, _request: Request, fields: Fields) -> Reply | None:
        lease_id = self._lease_id(fields)
        if not fields.get("sync", True):
            self._leases.revoke_later(lease_id)
            return Reply(status=202)
        try:
            self._leases.revoke(lease_id)
        except BackendError as error:
            raise refused(str(error)) from None
        return None

    def _revoke_prefix(self, _request: Request, fields: Fields) -> Reply | None:
        sync = fields.get("sync", True)
        self._leases.revoke_prefix(fields.text("prefix"), sync=sync)
        return None if sync else Reply(status=202)

    def _revoke_force(self, _request: Request, fields: Fields) -> None:
        self._leases.revoke_prefix(fields.text("prefix"), force=True)

    def _tidy(self, _request: Request, _fields: Fields) -> Reply:
        said = "Any information from the operation will be printed to"
        text = f"Tidy operation successfully started. {said} {self._core.flavor.product}'s server logs."
        return Reply(status=202, warnings=[text])

    def _count(self, _request: Request, fields: Fields) -> Reply:
        if fields.text("type") != "irrevocable":
            raise not_found()
        mounts = Counter(self._mount_of(lease.path) for lease in self._leases.irrevocable())
        return Reply(data={"counts": dict(mounts), "lease_count": mounts.total()})

    def _irrevocable(self, _request: Request, fields: Fields) -> Reply:
        if fields.text("type") != "irrevocable":
            raise not_found()
        leases = [
            {"lease_id": lease.lease_id, "mount_id": self._mount_of(lease.path), "error": lease.revoke_error}
            for lease in self._leases.irrevocable()
        ]
        return Reply(data={"lease_count": len(leases), "leases": leases})

    def _mount_of(self, lease_id: str) -> str:
        mount = self._core.mounts.find(lease_id)
        return "" if mount is None else mount.accessor

    def _lease_id(self, fields: Fields) -> str:
        lease_id = fields.get("lease_id", fields.get("url_lease_id"))
        if lease_id in (None, ""):
            raise refused("lease_id must be specified")
        if not isinstance(lease_id, str):
            if not self._core.flavor.openbao:
                raise ConnectionDropped
            raise refused("invalid lease ID")
        return lease_id
