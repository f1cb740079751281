"""
What every login goes through, whatever the auth method: second factors, the token, its entity and its name.

vault: ``handleLoginRequest``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vault_pool.devserver.framework import Reply, Request, answer
from vault_pool.devserver.ldap_directory import MemoryDirectory
from vault_pool.devserver.mfa import IdentityEngine, requirement
from vault_pool.devserver.mounts import Mount
from vault_pool.devserver.token_entry import Auth, wants_mfa

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core


class Logins:
    """
    The logins of one server, and what their methods share. Thread-safe.

    *directory* has the people whom `ldap` knows where no other directory is configured. *on_client_authority* is what
    TLS does with a new authority of clients, a PEM text, where there is TLS (*over_tls*).
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._entities: dict[tuple[str, str], str] = {}
        self.directory = MemoryDirectory()
        self.over_tls = False
        self.on_client_authority: Callable[[str], None] = lambda _authority: None

    def answer(self, mount: Mount, request: Request) -> Reply | None:
        """
        Let the engine answer a path that needs no token, and make the token that it grants.
        """
        reply = answer(mount.engine, request, self._core.flavor)
        if reply is None or reply.auth is None:
            return reply
        missing = self._second_factor(mount, reply.auth)
        if missing is not None:
            reply.auth = wants_mfa(missing)
            return reply
        # vault: where the login came from comes first, such as "userpass-bob", or "approle" alone.
        source = mount.inner_path.removeprefix("auth/").replace("/", "-")
        auth = replace(reply.auth, display_name=(source + reply.auth.display_name).removesuffix("-"))
        namespace = self._core.namespaces.of(mount.path)
        path = mount.inner_path + request.path
        reply.auth, warnings = self._core.tokens.issue(auth, path, mount.limits, namespace=namespace)
        reply.warnings += warnings
        return reply

    def entity_id(self, mount_point: str, alias: str) -> str:
        """
        Return the entity that logs in at *mount_point* as *alias*: the same each time.
        """
        mount = self._core.mounts.find(mount_point)
        with self._core.lock:
            return self._entities.setdefault(("" if mount is None else mount.accessor, alias), str(uuid.uuid4()))

    def _second_factor(self, mount: Mount, auth: Auth) -> Mapping[str, Any] | None:
        """
        Return the second factor that a login needs, by configuration or by a fault.
        """
        if self._core.faults.claim("mfa"):
            return requirement()
        identity = self._core.mounts.get(f"{mount.namespace}identity/")
        engine = None if identity is None else identity.engine
        return engine.requirement(mount, auth.entity_id) if isinstance(engine, IdentityEngine) else None
