"""
The heart of the server: who may do what, which engine answers, and what is registered afterwards.

vault: ``vault/request_handling.go``. No sockets here: `Core.handle()` takes a request and gives status and body.
"""

from __future__ import annotations

import base64
import secrets
import threading
import uuid
from dataclasses import replace
from math import floor
from typing import Any, Final

from vault_pool.devserver import wrapping
from vault_pool.devserver.clock import Clock
from vault_pool.devserver.errors import ApiError, BackendError, bad_token, denied_by_policy, failed, not_found, refused
from vault_pool.devserver.faults import Faults
from vault_pool.devserver.flavor import Flavor
from vault_pool.devserver.framework import Reply, Request, answer, needs_create, relative
from vault_pool.devserver.inline_auth import FAILED_HEADER
from vault_pool.devserver.leases import Lease, Leases
from vault_pool.devserver.logins import Logins
from vault_pool.devserver.mounts import AuthEngine, Mount, MountTable, SecretsEngine
from vault_pool.devserver.namespaces import Namespaces
from vault_pool.devserver.policies import Acl, Policy, default_policy, parse_policy
from vault_pool.devserver.quotas import Quotas
from vault_pool.devserver.token_entry import Auth, TokenEntry
from vault_pool.devserver.tokens import TokenStore
from vault_pool.devserver.ttl import Limits, Wish, calculate_ttl
from vault_pool.devserver.values import base62, round_half_up

_LAST_USE: Final = "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked."


class Core:
    """
    The state of one server. Thread-safe: *lock* guards all tables; nobody holds it while an engine talks to a database.
    """

    def __init__(self, flavor: Flavor, clock: Clock, faults: Faults) -> None:
        self.flavor = flavor
        self.clock = clock
        self.faults = faults
        self.lock = threading.RLock()
        self.mounts = MountTable()
        self.namespaces = Namespaces(self)
        self.leases = Leases(self, clock, self.lock)
        self.tokens = TokenStore(self.leases, clock, self.lock, flavor)
        self.policies: dict[str, Policy] = {
            "root": Policy(name="root", text=""),
            "default": parse_policy("default", default_policy(openbao=flavor.openbao), modified=clock.now()),
        }
        self.password_policies: dict[str, str] = {}
        self.wrapping = wrapping.Wrapping(self)
        self.quotas = Quotas(self)
        self.logins = Logins(self)
        self.sealed = False
        self.unseal_key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.cluster_id = str(uuid.uuid4())
        self.cluster_name = f"vault-cluster-{secrets.token_hex(4)}"

    def seal(self) -> None:
        """
        Seal: everything but health and unsealing answers 503; leases and tokens survive, and what falls due waits.
        """
        self.sealed = True
        self.leases.timers.pause(True)

    def unseal(self) -> None:
        """
        Unseal; what fell due meanwhile is revoked now.
        """
        self.sealed = False
        self.leases.timers.pause(False)

    def handle(self, request: Request) -> tuple[int, dict[str, Any] | None]:
        """
        Answer *request*; raise ApiError for everything that is no success.
        """
        if self.sealed:
            raise ApiError(503, "Vault is sealed")
        about_wrapping = self.wrapping.answer(request)
        if about_wrapping is not None:
            return about_wrapping
        status, body = self._answer_inline(request) if request.inline_login else self._answer(request)
        if request.wrap_ttl and body is not None:
            if self.faults.claim("standby-reads"):
                raise ApiError(500, "internal error")
            body = self.wrapping.wrap(body, request.path, request.wrap_ttl)
        return status, body

    def _answer_inline(self, request: Request) -> tuple[int, dict[str, Any] | None]:
        """
        Log in first. openbao: the token ends with the request, which therefore cannot have a lease.
        """
        assert request.inline_login is not None
        try:
            _, login = self._answer(request.inline_login)
        except ApiError as error:
            error.headers[FAILED_HEADER] = "true"
            raise
        if login is None or login["auth"] is None:
            raise ApiError(404, "specified authentication path was not found")
        token = login["auth"]["client_token"]
        try:
            status, body = self._answer(replace(request, token=token))
        finally:
            self.tokens.ended(token)
        if body is not None and body.get("lease_id"):
            raise refused("requests with inline authentication cannot generate leases")
        return status, body

    def _answer(self, request: Request) -> tuple[int, dict[str, Any] | None]:
        if request.operation == "update" and request.path.endswith("/"):
            raise refused("cannot write to a path ending in '/'")
        mount = self.mounts.find(request.path)
        if mount is not None and not mount.tainted:
            inner = relative(request, mount.path, request.path[len(mount.path) :], None)
            if any(_covers(path, inner.path) for path in mount.engine.open_paths):
                return self._finish(request, self.logins.answer(mount, inner))
        entry = self.tokens.lookup(request.token)
        if entry is None or not entry.may_come_from(request.remote_address):
            raise bad_token(self.flavor)
        if not request.path.startswith(entry.namespace):
            raise denied_by_policy()
        last_use = self.tokens.use(entry)
        try:
            request, allowed = self._authorize(request, mount, entry)
            if not allowed:
                raise denied_by_policy()
            status, body = self._finish(request, self._route(request, mount, entry))
        finally:
            if last_use:
                self.tokens.ended(entry.id)
        if last_use and body is not None and body["lease_id"]:
            raise refused(_LAST_USE)
        return status, body

    def acl(self, entry: TokenEntry) -> Acl:
        """
        Return what *entry* is allowed, by its policies as they are now.
        """
        with self.lock:
            known = {**self.policies, wrapping.POLICY.name: wrapping.POLICY}
            named = [known[name] for name in entry.policies if name in known]
        return Acl(named, entity_id=entry.entity_id)

    def limits(self, path: str) -> Limits:
        """
        Return the TTLs of the mount of *path*.
        """
        mount = self.mounts.find(path)
        return Limits() if mount is None else mount.limits

    def renewal_limits(self, path: str, start: float) -> Limits:
        """
        Return the TTLs of the mount of *path*, for a renewal of what was issued at *start*.
        """
        limits = self.limits(path)
        truncated = self.faults.claim("truncated")
        if truncated is None:
            return limits
        left = floor(self.clock.now()) - floor(start) + int(truncated.fault.seconds)
        return replace(limits, maximum=min(limits.maximum, left))

    def renew_secret(self, lease: Lease, increment: int, limits: Limits) -> Wish:
        """
        Let the engine renew *lease*.
        """
        mount = self.mounts.find(lease.path)
        if mount is None or not isinstance(mount.engine, SecretsEngine):
            raise BackendError(f"failed to renew entry: no handler for {lease.lease_id}")
        try:
            wish = mount.engine.renew(lease, increment, limits)
        except BackendError as error:
            raise BackendError(f"failed to renew entry: resp: (*logical.Response)(nil) err: {error}") from None
        self._store()
        return wish

    def revoke_lease(self, lease: Lease) -> None:
        """
        Let the engine revoke *lease*, or kill its token.
        """
        if lease.auth is not None:
            self.tokens.ended(lease.auth.client_token)
            return
        mount = self.mounts.find(lease.path)
        if mount is None or not isinstance(mount.engine, SecretsEngine):
            raise BackendError(f"failed to revoke entry: no handler for {lease.lease_id}")
        try:
            mount.engine.revoke(lease)
        except BackendError as error:
            raise BackendError(f"failed to revoke entry: resp: (*logical.Response)(nil) err: {error}") from None
        self._store()

    def _store(self) -> None:
        """
        Write down what an engine did to a lease: a standby of OpenBao 2.5 finds too late that it cannot.
        """
        if self.faults.claim("standby-reads"):
            raise failed("operation could not be completed as storage is read-only")

    def renewed_wish(self, auth: Auth, path: str, request: Request) -> Wish | None:
        """
        Return the TTLs that the auth method at *path* wants for *auth* now; None: it does not renew the token.

        A token that was created gets the TTL of its last renewal.
        """
        mount = self.mounts.find(path)
        if mount is None or not isinstance(mount.engine, AuthEngine):
            return auth.wish
        return mount.engine.renewed_wish(auth, request)

    def _authorize(self, request: Request, mount: Mount | None, entry: TokenEntry) -> tuple[Request, bool]:
        """
        Tell creates from updates, and whether the token's policies allow the request.
        """
        inside = "" if mount is None else request.path[len(mount.path) :]
        if mount is not None and request.operation == "update":
            inner = relative(request, mount.path, inside, entry)
            if needs_create(mount.engine, inner, self.flavor):
                request = replace(request, operation="create")
        sudo = mount is not None and any(_covers(path, inside) for path in mount.engine.sudo_paths)
        path = request.path.removeprefix(entry.namespace)
        return request, self.acl(entry).allows(request.operation, path, request.data, sudo=sudo)

    def _route(self, request: Request, mount: Mount | None, entry: TokenEntry) -> Reply | None:
        if mount is None or mount.tainted:
            namespace = self.namespaces.of(request.path).path
            text = f'no handler for route "{request.path.removeprefix(namespace)}"'
            if mount is None:
                raise ApiError(404, f"{text}. route entry not found.")
            if self.flavor.openbao:
                raise ApiError(404, f'{text} on namespace "{namespace}". route entry or namespace is tainted.')
            raise ApiError(404, f"{text}. route entry is tainted.")
        inner = relative(request, mount.path, request.path[len(mount.path) :], entry)
        reply = answer(mount.engine, inner, self.flavor)
        if reply is not None and reply.secret is not None:
            self._register(request, reply, mount, entry)
        return reply

    def _register(self, request: Request, reply: Reply, mount: Mount, entry: TokenEntry) -> None:
        """
        Give a lease to what an engine issued. vault: ``Register``; what cannot be registered is revoked at once.
        """
        assert reply.secret is not None
        now = self.clock.now()
        ttl, warnings = calculate_ttl(mount.limits, reply.secret.wish, now=now)
        batch_end = self.tokens.end(entry) if entry.batch else None
        namespace = self.namespaces.of(mount.path)
        lease = Lease(
            lease_id=f"{request.path.removeprefix(namespace.path)}/{base62(24)}{namespace.suffix}",
            namespace=namespace.path,
            issue_time=now,
            expire_time=now + ttl if batch_end is None else min(now + ttl, batch_end),
            internal=reply.secret.internal,
            token=entry.parent if entry.batch else entry.id,
            batch_end=batch_end,
        )
        reply.warnings += warnings
        with self.lock:
            # The token may have died while the engine worked; its leases have been ended without this one.
            orphaned = self.tokens.lookup(entry.id, dying=True) is None
            self.leases.register(lease)
            if orphaned:
                self.leases.revoke_later(lease.lease_id)
        if orphaned:
            raise bad_token(self.flavor)
        # vault: a new lease's duration is rounded; only a batch token's end makes it no whole number.
        reply.lease, reply.lease_duration = (
            lease,
            ttl if batch_end is None else min(ttl, round_half_up(batch_end - now)),
        )

    def _finish(self, request: Request, reply: Reply | None) -> tuple[int, dict[str, Any] | None]:
        if reply is None:
            if request.operation in {"read", "list"}:
                raise not_found()
            return 204, None
        if reply.status is not None and not reply.warnings and reply.data is None:
            return reply.status, None
        body = self.envelope(reply)
        mount = self.mounts.find(request.path)
        if self.flavor.mount_type and mount is not None:
            body["mount_type"] = mount.engine.kind
        return reply.status or 200, body

    def envelope_of(self, data: dict[str, Any]) -> dict[str, Any]:
        """
        Return the body of a success that is nothing but *data*.
        """
        return self.envelope(Reply(data=data))

    def envelope(self, reply: Reply) -> dict[str, Any]:
        """
        Return the body of a success, with all nine keys.
        """
        lease = reply.lease
        body: dict[str, Any] = {
            "request_id": str(uuid.uuid4()),
            "lease_id": "" if lease is None else lease.lease_id,
            "renewable": lease is not None and lease.renewable,
            "lease_duration": reply.lease_duration,
            "data": reply.data,
            "wrap_info": None,
            "warnings": reply.warnings or None,
            "auth": None if reply.auth is None else reply.auth.show(),
        }
        return {**reply.data, **body} if reply.flat and reply.data is not None else body


def _covers(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern
