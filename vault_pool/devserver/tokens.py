"""
Tokens: what they are, who their children are, and how they die.

vault: ``vault/token_store.go``.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import replace
from typing import Any

from vault_pool.devserver.clock import Clock
from vault_pool.devserver.errors import BackendError, failed, refused
from vault_pool.devserver.flavor import Flavor
from vault_pool.devserver.leases import Lease, Leases
from vault_pool.devserver.namespaces import ROOT, Namespace
from vault_pool.devserver.token_entry import LAST_USE_SPENT, Auth, TokenEntry
from vault_pool.devserver.ttl import Limits, Wish, calculate_ttl
from vault_pool.devserver.values import base62, show_time


class TokenStore:
    """
    All tokens. Thread-safe.
    """

    def __init__(self, leases: Leases, clock: Clock, lock: threading.RLock, flavor: Flavor) -> None:
        self._leases = leases
        self._clock = clock
        self._lock = lock
        self._flavor = flavor
        self._tokens: dict[str, TokenEntry] = {}
        self._accessors: dict[str, str] = {}
        self._children: dict[str, set[str]] = {}
        self._salt = secrets.token_bytes(16)

    def issue(
        self,
        auth: Auth,
        path: str,
        limits: Limits,
        *,
        parent: str = "",
        token_id: str = "",
        namespace: Namespace = ROOT,
    ) -> tuple[Auth, list[str]]:
        """
        Make a token for *auth*; return *auth* with the token, its accessor and its duration, and the warnings.

        A root token without a TTL never ends. vault: ``RegisterAuth``.
        """
        now = self._clock.now()
        endless = "root" in auth.policies and auth.wish == Wish()
        ttl, warnings = (0, []) if endless else calculate_ttl(limits, auth.wish, now=now)
        batch = auth.token_type == "batch"  # noqa: S105 - a kind, no password
        entry = TokenEntry(
            id=token_id or self._fresh_id(batch=batch) + namespace.suffix,
            accessor="" if batch else base62(24) + namespace.suffix,
            namespace=namespace.path,
            path=path,
            policies=auth.policies,
            creation_time=int(now),
            ttl=ttl,
            display_name=auth.display_name,
            meta=auth.metadata,
            num_uses=auth.num_uses,
            explicit_max_ttl=auth.wish.explicit_max_ttl,
            period=auth.wish.period,
            type=auth.token_type,
            orphan=auth.orphan,
            parent="" if auth.orphan else parent,
            entity_id=auth.entity_id,
            bound_cidrs=auth.bound_cidrs,
        )
        entry.lease_id = f"{path}/{self._hash(entry.id, custom=bool(token_id))}"
        issued = replace(
            auth,
            client_token=entry.id,
            accessor=entry.accessor,
            lease_duration=ttl,
            renewable=auth.renewable and not batch and not endless,
            wish=replace(auth.wish, ttl=ttl),
        )
        self._keep(entry, issued, now, None if endless else now + ttl)
        return issued, warnings

    def _keep(self, entry: TokenEntry, issued: Auth, now: float, end: float | None) -> None:
        with self._lock:
            self._tokens[entry.id] = entry
            if entry.parent:
                self._children.setdefault(entry.parent, set()).add(entry.id)
            if entry.batch:
                return
            self._accessors[entry.accessor] = entry.id
            self._leases.register(
                Lease(
                    lease_id=entry.lease_id,
                    namespace=entry.namespace,
                    issue_time=now,
                    expire_time=end,
                    renewable=issued.renewable,
                    auth=issued,
                )
            )

    def lookup(self, token: str | None, *, dying: bool = False) -> TokenEntry | None:
        """
        Return the living token; *dying* includes one that has spent its last use.
        """
        with self._lock:
            entry = self._tokens.get(token or "")
            if entry is None or (entry.num_uses == LAST_USE_SPENT and not dying):
                return None
            end = self.end(entry)
            if end is None or end > self._clock.now():
                return entry
            if entry.batch:
                del self._tokens[entry.id]
            return None

    def by_accessor(self, accessor: str) -> TokenEntry | None:
        """
        Return the living token with *accessor*.
        """
        return self.lookup(self._accessors.get(accessor))

    def accessors(self) -> list[str]:
        """
        Return all accessors.
        """
        with self._lock:
            return list(self._accessors)

    def end(self, entry: TokenEntry) -> float | None:
        """
        Return when *entry* ends; None: never.
        """
        if entry.batch:
            return entry.creation_time + entry.ttl
        lease = self._leases.get(entry.lease_id)
        return 0.0 if lease is None else lease.expire_time

    def use(self, entry: TokenEntry) -> bool:
        """
        Count one use; tell whether it was the last.
        """
        with self._lock:
            if entry.num_uses > 0:
                entry.num_uses = LAST_USE_SPENT if entry.num_uses == 1 else entry.num_uses - 1
            return entry.num_uses == LAST_USE_SPENT

    def show(self, entry: TokenEntry, *, hide_id: bool = False) -> dict[str, Any]:
        """
        Return what a lookup of *entry* shows.
        """
        lease = self._leases.get(entry.lease_id)
        end = self.end(entry)
        now = self._clock.now()
        shown: dict[str, Any] = {
            "accessor": entry.accessor,
            "creation_time": entry.creation_time,
            "creation_ttl": entry.ttl,
            "display_name": entry.display_name,
            "entity_id": entry.entity_id,
            "expire_time": show_time(end, whole_seconds=entry.batch),
            "explicit_max_ttl": entry.explicit_max_ttl,
            "id": "" if hide_id else entry.id,
            "issue_time": show_time(entry.creation_time, whole_seconds=True) if lease is None else "",
            "meta": None if entry.meta is None else dict(entry.meta),
            "num_uses": entry.num_uses,
            "orphan": entry.orphan,
            "path": entry.path,
            "policies": list(entry.policies),
            "renewable": lease is not None and lease.renewable,
            "ttl": Lease(lease_id="", issue_time=0, expire_time=end).remaining(now),
            "type": entry.type,
        }
        if lease is not None:
            shown["issue_time"] = show_time(lease.issue_time)
            if lease.last_renewal is not None:
                shown |= {"last_renewal": show_time(lease.last_renewal), "last_renewal_time": int(lease.last_renewal)}
        if entry.period:
            shown["period"] = entry.period
        return shown

    def renew(self, entry: TokenEntry, increment: int, wish: Wish, limits: Limits) -> tuple[Auth, list[str]]:
        """
        Renew *entry*; return its `auth` block and the warnings.

        *wish* is what the role of its login wants now, or a created token's last TTL. vault: ``RenewToken``.
        """
        if entry.batch:
            raise refused("batch tokens cannot be renewed")
        with self._lock:
            now = self._clock.now()
            lease = self._leases.get(entry.lease_id)
            if lease is None or lease.auth is None or entry.num_uses == LAST_USE_SPENT:
                raise refused("token not found")
            refusal = lease.refusal(now)
            if refusal is not None:
                raise refused(refusal)
            try:
                ttl, warnings = calculate_ttl(limits, wish, now=now, start=lease.issue_time, increment=increment)
            except BackendError as error:
                raise failed(str(error)) from None
            auth = replace(lease.auth, lease_duration=ttl, wish=replace(wish, ttl=ttl), num_uses=entry.num_uses)
            lease.auth, lease.expire_time, lease.last_renewal = auth, now + ttl, now
            self._leases.arm(lease)
            return auth, warnings

    def revoke(self, entry: TokenEntry, *, orphan_children: bool = False) -> None:
        """
        Kill *entry*, its children first unless they are to be orphans; its leases end in the background.

        vault: ``revokeTree``.
        """
        if entry.batch:
            raise refused("batch tokens cannot be revoked")
        self._die(entry.id, orphan_children=orphan_children)

    def ended(self, token: str) -> None:
        """
        Kill *token*: its own lease is over.
        """
        self._die(token, orphan_children=False)

    def _die(self, token: str, *, orphan_children: bool) -> None:
        with self._lock:
            for child in self._children.pop(token, set()):
                if not orphan_children:
                    self._die(child, orphan_children=False)
                elif child in self._tokens:
                    self._tokens[child].parent, self._tokens[child].orphan = "", True
            entry = self._tokens.pop(token, None)
            if entry is None:
                return
            self._accessors.pop(entry.accessor, None)
            self._children.get(entry.parent, set()).discard(token)
            lease = self._leases.get(entry.lease_id)
            if lease is not None:
                self._leases.forget(lease)
            self._leases.revoke_of_token(token)

    def check_custom_id(self, token_id: str) -> None:
        """
        Refuse an id that cannot be a token made to order.
        """
        for prefix in ("s.", "hvs.") if not self._flavor.openbao else ("s.",):
            if token_id.startswith(prefix):
                raise refused(f"custom token ID cannot have the '{prefix}' prefix")
        if "." in token_id:
            raise refused("custom token ID cannot have a '.' in the value")
        if self.lookup(token_id) is not None:
            raise refused("cannot create a token with a duplicate ID")

    def _fresh_id(self, *, batch: bool) -> str:
        if batch:
            return self._flavor.batch_prefix + base62(138)
        return self._flavor.service_prefix + base62(self._flavor.service_length)

    def _hash(self, token: str, *, custom: bool) -> str:
        # vault: tokens made to order are hashed with SHA-1, the others with HMAC-SHA-256; leases show it.
        if custom:
            return hashlib.sha1(self._salt + token.encode(), usedforsecurity=False).hexdigest()
        return "h" + hmac.new(self._salt, token.encode(), "sha256").hexdigest()
