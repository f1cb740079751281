"""
Namespaces: a Vault within the Vault, with mounts and tokens of its own.

openbao v2.5.5: ``vault/namespace_store.go`` and ``vault/logical_system_namespaces.go``. Community Vault has none and
ignores the header. Not imitated: policies of a namespace's own (all share one set of names), and locking.
"""

from __future__ import annotations

import secrets
import string
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.errors import ApiError, refused
from vault_pool.devserver.field_types import ANY
from vault_pool.devserver.framework import Fields, Reply, Request, Route
from vault_pool.devserver.mounts import Mount

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_ID: Final = string.ascii_letters + string.digits
_ONLY_AT_THE_ROOT: Final = ("sys/health", "sys/init", "sys/leader", "sys/seal", "sys/seal-status", "sys/unseal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """
    A namespace; *path* ends in a slash and is empty for the root. Its *id* ends the tokens and leases made in it.
    """

    path: str
    id: str = field(default_factory=lambda: "".join(secrets.choice(_ID) for _ in range(6)))
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    custom_metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """
        What is appended to the names of tokens, accessors and leases.
        """
        return f".{self.id}" if self.path else ""

    def show(self, parent: str) -> dict[str, Any]:
        """
        Return what a read in the namespace *parent* shows.
        """
        return {
            "custom_metadata": dict(self.custom_metadata),
            "id": self.id,
            "locked": False,
            "path": self.path.removeprefix(parent),
            "tainted": False,
            "uuid": self.uuid,
        }


# The engines of the root namespace that answer in all others as well.
_SHARED: Final = ("sys/", "auth/token/")
ROOT: Final = Namespace(path="", id="root")


class Namespaces:
    """
    All namespaces, and the paths below `sys/namespaces/`. Guarded by the core's lock.

    A request's full path begins with its namespace's path, wherever the request named it.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known = {"": ROOT}
        one = {"read": self._read, "update": self._create, "delete": self._delete}
        if not core.flavor.openbao:
            everything = dict.fromkeys(("read", "update", "list", "delete"), self._enterprise_only)
            self.routes: Sequence[Route] = (Route(pattern="namespaces(?:/.*)?", operations=everything),)
            return
        self.routes = (
            Route(pattern="namespaces/?", operations={"list": self._list}),
            Route(pattern="namespaces/(?P<path>.+)", fields={"custom_metadata": ANY}, operations=one),
        )

    def resolve(self, header: str, path: str) -> str:
        """
        Return the full path of a request for *path*; *header* is that of the namespace.
        """
        named = header.strip("/")
        if not self._core.flavor.openbao or named in {"", "root"}:
            full, namespace = path, self.of(path)
        else:
            full = f"{named}/{path}"
            if f"{named}/" not in self._known and path not in _ONLY_AT_THE_ROOT:
                raise ApiError(404, "namespace not found")
            namespace = self._known.get(f"{named}/", Namespace(path=f"{named}/"))
        if namespace.path and full.removeprefix(namespace.path) in _ONLY_AT_THE_ROOT:
            raise refused("operation unavailable in namespaces")
        return full

    def of(self, path: str) -> Namespace:
        """
        Return the namespace that the full *path* lies in.
        """
        with self._core.lock:
            return max(
                (one for one in self._known.values() if path.startswith(one.path)), key=lambda one: len(one.path)
            )

    def _create(self, request: Request, fields: Fields) -> Reply:
        parent = self._of_request(request)
        path = f"{parent}{fields.text('path').strip('/')}/"
        with self._core.lock:
            namespace = Namespace(path=path, custom_metadata=fields.get("custom_metadata", {}))
            known = self._known.get(path)
            if known is not None:
                namespace = Namespace(
                    path=path, id=known.id, uuid=known.uuid, custom_metadata=namespace.custom_metadata
                )
            self._known[path] = namespace
            for inner in _SHARED:
                root = self._core.mounts.get(inner)
                if known is None and root is not None:
                    self._core.mounts.add(Mount(path=path + inner, namespace=path, engine=root.engine))
        return Reply(data=namespace.show(parent))

    def _read(self, request: Request, fields: Fields) -> Reply | None:
        parent = self._of_request(request)
        namespace = self._known.get(f"{parent}{fields.text('path').strip('/')}/")
        return None if namespace is None else Reply(data=namespace.show(parent))

    def _delete(self, request: Request, fields: Fields) -> Reply:
        """
        Revoke everything in the namespace and forget it. vault: in the background; here it is done with the answer.
        """
        path = f"{self._of_request(request)}{fields.text('path').strip('/')}/"
        with self._core.lock:
            if path not in self._known:
                return Reply(warnings=["requested namespace does not exist"])
            if any(one != path and one.startswith(path) for one in self._known):
                raise refused(f'cannot delete namespace ("{path}") containing child namespaces')
        self._core.leases.revoke_prefix(path, force=True)
        mounts = [mount for mount in self._core.mounts.all() if mount.namespace == path]
        for mount in mounts:
            self._core.mounts.remove(mount.path)
            if mount.inner_path not in _SHARED:
                mount.engine.close()
        with self._core.lock:
            self._known.pop(path, None)
        return Reply(data={"status": "in-progress"})

    def _list(self, request: Request, _fields: Fields) -> Reply | None:
        parent = self._of_request(request)
        inside = [one.show(parent) for path, one in sorted(self._known.items()) if path and path.startswith(parent)]
        shown = {one["path"]: one for one in inside if one["path"].count("/") == 1}
        return Reply(data={"keys": list(shown), "key_info": shown}) if shown else None

    def _enterprise_only(self, _request: Request, _fields: Fields) -> Reply:
        raise ApiError(404, "enterprise-only feature")

    def _of_request(self, request: Request) -> str:
        return request.mount_point.removesuffix("sys/")
