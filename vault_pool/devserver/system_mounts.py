"""
`sys/mounts` and `sys/auth`: what is mounted, and how it is tuned; and who is locked out of an auth method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.engines import ALIASES, AUTH, SECRETS
from vault_pool.devserver.errors import ApiError, bad_token, refused
from vault_pool.devserver.field_types import ANY, FLAG, MAP, PAIRS, SECONDS, TEXT
from vault_pool.devserver.framework import Fields, Reply, Request, Route
from vault_pool.devserver.mounts import LockingEngine, Mount
from vault_pool.devserver.policies import Acl
from vault_pool.devserver.values import BadDurationError, parse_duration

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_MOUNT_FIELDS: Final = {
    "type": TEXT,
    "description": TEXT,
    "config": MAP,
    "options": PAIRS,
    "local": FLAG,
    "seal_wrap": FLAG,
    "external_entropy_access": FLAG,
    "plugin_name": TEXT,
    "plugin_version": TEXT,
}
_TUNE_FIELDS: Final = {
    "default_lease_ttl": SECONDS,
    "max_lease_ttl": SECONDS,
    "description": TEXT,
    "user_lockout_config": ANY,
    "options": PAIRS,
    "token_type": TEXT,
}


class MountPaths:
    """
    The paths of mounts; an auth method called `x` is the mount `auth/x/`.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        path = "(?P<path>.+?)"
        self.routes: Sequence[Route] = (
            *(
                route
                for kind in ("mounts", "auth")
                for route in (
                    Route(
                        pattern=f"(?P<kind>{kind})/{path}/tune",
                        fields=_TUNE_FIELDS,
                        operations={"read": self._read_tune, "update": self._tune},
                    ),
                    Route(pattern=f"(?P<kind>{kind})/?", operations={"read": self._all}),
                    Route(
                        pattern=f"(?P<kind>{kind})/{path}/?",
                        fields=_MOUNT_FIELDS,
                        operations={"read": self._read, "update": self._mount, "delete": self._unmount},
                    ),
                )
            ),
            Route(pattern="internal/ui/mounts/?", operations={"read": self._ui_all}),
            Route(pattern=f"internal/ui/mounts/{path}/?", operations={"read": self._ui_one}),
            Route(pattern="locked-users", operations={"read": self._locked}),
            Route(pattern="locked-users/(?P<accessor>[^/]+)/unlock/(?P<name>.+)", operations={"update": self._unlock}),
        )

    def _here(self, request: Request) -> list[Mount]:
        """
        Return the mounts of the request's namespace.
        """
        here = request.mount_point.removesuffix("sys/")
        return [mount for mount in self._core.mounts.all() if mount.namespace == here]

    def _all(self, request: Request, fields: Fields) -> Reply:
        auth = fields.text("kind") == "auth"
        shown = {
            mount.inner_path.removeprefix("auth/") if auth else mount.inner_path: mount.show(self._core.flavor)
            for mount in self._here(request)
            if mount.is_auth is auth
        }
        return Reply(data=shown, flat=True)

    def _path(self, request: Request, fields: Fields) -> str:
        namespace = request.mount_point.removesuffix("sys/")
        prefix = "auth/" if fields.text("kind") == "auth" else ""
        return f"{namespace}{prefix}{fields.text('path').strip('/')}/"

    def _found(self, request: Request, fields: Fields, refusal: str = 'cannot fetch sysview for path "{}"') -> Mount:
        path = self._path(request, fields)
        mount = self._core.mounts.get(path)
        if mount is None:
            raise refused(refusal.format(path))
        return mount

    def _read(self, request: Request, fields: Fields) -> Reply:
        auth = fields.text("kind") == "auth"
        refusal = f"No auth engine at {fields.text('path')}/" if auth else "No secret engine mount at {}"
        return Reply(data=self._found(request, fields, refusal).show(self._core.flavor), flat=True)

    def _mount(self, request: Request, fields: Fields) -> None:
        path = self._path(request, fields)
        auth = fields.text("kind") == "auth"
        kind, implied = ALIASES.get(fields.text("type"), (fields.text("type"), {}))
        if not kind:
            raise refused("backend type must be specified as a string")
        make = (AUTH if auth else SECRETS).get(kind)
        if make is None:
            raise refused(f"plugin not found in the catalog: {kind}")
        config: Mapping[str, Any] = fields.get("config", {})
        options = {**(fields.get("options") or {}), **implied}
        mount = Mount(
            path=path,
            namespace=request.mount_point.removesuffix("sys/"),
            engine=make(self._core, options),
            description=fields.text("description"),
            default_lease_ttl=_seconds(config.get("default_lease_ttl")),
            max_lease_ttl=_seconds(config.get("max_lease_ttl")),
            options=options,
        )
        with self._core.lock:
            taken = self._core.mounts.conflict(path)
            if taken is not None:
                raise refused(f"path is already in use at {taken.inner_path.removeprefix('auth/')}")
            self._core.mounts.add(mount)

    def _unmount(self, request: Request, fields: Fields) -> None:
        """
        Revoke the mount's leases, then forget it. vault: it stays behind, tainted, if a revocation fails.
        """
        mount = self._core.mounts.get(self._path(request, fields))
        if mount is not None:
            mount.tainted = True
            self._core.leases.revoke_prefix(mount.path)
            self._core.mounts.remove(mount.path)
            mount.engine.close()

    def _read_tune(self, request: Request, fields: Fields) -> Reply:
        return Reply(data=self._found(request, fields).show_tune(), flat=True)

    def _tune(self, request: Request, fields: Fields) -> None:
        mount = self._found(request, fields)
        mount.default_lease_ttl = fields.get("default_lease_ttl", mount.default_lease_ttl)
        mount.max_lease_ttl = fields.get("max_lease_ttl", mount.max_lease_ttl)
        mount.description = fields.get("description", mount.description)
        mount.lockout = {**mount.lockout, **fields.get("user_lockout_config", {})}

    def _acl(self, request: Request) -> Acl:
        entry = self._core.tokens.lookup(request.token)
        if entry is None:
            raise bad_token(self._core.flavor)
        return self._core.acl(entry)

    def _ui_all(self, request: Request, _fields: Fields) -> Reply:
        acl = self._acl(request)
        mounts = [mount for mount in self._here(request) if acl.touches(mount.inner_path)]
        shown = {mount.inner_path: mount.show(self._core.flavor) for mount in mounts}
        auth = {path.removeprefix("auth/"): one for path, one in shown.items() if path.startswith("auth/")}
        return Reply(data={"auth": auth, "secret": {path: one for path, one in shown.items() if path[:5] != "auth/"}})

    def _ui_one(self, request: Request, fields: Fields) -> Reply:
        """
        Show the mount of a path to whom it may concern. vault: ``pathInternalUIMountRead``; command lines ask it.
        """
        namespace = request.mount_point.removesuffix("sys/")
        mount = self._core.mounts.find(namespace + fields.text("path"))
        if mount is None or not self._acl(request).touches(mount.inner_path):
            raise ApiError(
                403,
                "preflight capability check returned 403, please ensure client's policies grant access to path "
                f'"{fields.text("path").strip("/")}/"',
            )
        return Reply(data=mount.show(self._core.flavor) | {"path": mount.inner_path})

    def _locked(self, _request: Request, _fields: Fields) -> Reply:
        locked = {
            mount.accessor: mount.engine.lockout.names(mount.lockout)
            for mount in self._core.mounts.all()
            if isinstance(mount.engine, LockingEngine)
        }
        found = [
            {"mount_accessor": accessor, "counts": len(names), "alias_identifiers": names}
            for accessor, names in locked.items()
            if names
        ]
        total = sum(map(len, locked.values()))
        here = {"namespace_id": "root", "namespace_path": "", "counts": total, "mount_accessors": found}
        return Reply(data={"by_namespace": [here] if found else [], "total": total})

    def _unlock(self, _request: Request, fields: Fields) -> None:
        for mount in self._core.mounts.all():
            if mount.accessor == fields.text("accessor") and isinstance(mount.engine, LockingEngine):
                mount.engine.lockout.forget(fields.text("name"))


def _seconds(value: Any) -> int:
    try:
        return 0 if value in (None, "system") else parse_duration(value)
    except BadDurationError as error:
        raise refused(f"unable to parse TTL of {value}: {error}") from None
