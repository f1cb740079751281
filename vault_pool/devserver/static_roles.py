"""
Static roles of the database engine: database users that exist, whose passwords are rotated.

vault: ``builtin/logical/database/rotation.go`` and ``path_roles.go``. A ticker that starts with the mount looks every
five seconds for roles that are due, so a rotation comes up to five seconds after the `ttl` has reached 0; until then
the old password is right. The database is told first, then the role is stored.

`rotation_schedule` is Vault 1.15's; no server that was recorded has it, it follows Vault's documentation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TYPE_CHECKING, Any, Final

from vault_pool.devserver.cron import Schedule, parse_schedule
from vault_pool.devserver.database_connections import Connections
from vault_pool.devserver.errors import BackendError, failed, refused
from vault_pool.devserver.field_types import LIST, PAIRS, SECONDS, TEXT
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route, keys
from vault_pool.devserver.values import round_half_up, show_time

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_TICK: Final = 5
# vault: what could not be rotated waits so long, then the next tick tries again, with the same password.
_PAUSE: Final = 10.0
_SHORTEST_WINDOW: Final = 3600
_FIELDS: Final = {
    "db_name": TEXT,
    "username": TEXT,
    "rotation_period": SECONDS,
    "rotation_statements": LIST,
    "credential_type": TEXT,
    "credential_config": PAIRS,
}
_SCHEDULE_FIELDS: Final = {"rotation_schedule": TEXT, "rotation_window": SECONDS}


@dataclass(slots=True, kw_only=True)
class _Role:
    """
    One static role. *schedule* or else *period* says when; *next_password* is one that the database did not take yet.

    *due*: not before; *previous*: password and rotation before the last. *lock* is held while the password changes.
    """

    name: str
    db_name: str
    username: str
    period: int = 0
    schedule: Schedule | None = None
    window: int = 0
    statements: list[str] = field(default_factory=list)
    credential_config: dict[str, str] = field(default_factory=dict)
    password: str = field(default="", repr=False)
    rotated: float = 0.0
    next_password: str = field(default="", repr=False)
    previous: tuple[str, float] | None = field(default=None, repr=False)
    due: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def following(self, rotated: float) -> float:
        """
        Return when the rotation after that at *rotated* is due.
        """
        return rotated + self.period if self.schedule is None else self.schedule.next(rotated)

    def when(self) -> dict[str, Any]:
        """
        Return the settings that say when it is rotated.
        """
        if self.schedule is None:
            return {"rotation_period": self.period}
        shown: dict[str, Any] = {"rotation_schedule": self.schedule.text}
        return shown | ({"rotation_window": self.window} if self.window else {})


class StaticRoles:
    """
    The paths of static roles; *taken* tells whether a dynamic role has a name. Thread-safe.
    """

    def __init__(self, core: Core, connections: Connections, taken: Callable[[str], bool]) -> None:
        self._core = core
        self._connections = connections
        self._taken = taken
        self._roles: dict[str, _Role] = {}
        self._started = core.clock.now()
        fields = {**_FIELDS, **(_SCHEDULE_FIELDS if core.flavor.schedules else {})}
        self.routes: Sequence[Route] = (
            Route(pattern="static-roles/?", operations={"list": lambda _request, _fields: keys(list(self._roles))}),
            Route(
                pattern=f"static-roles/{NAME}",
                fields=fields,
                operations={"read": self._read, "update": self._write, "delete": self._delete},
                exists=lambda _request, fields: self.has(fields.text("name")),
            ),
            Route(pattern=f"static-creds/{NAME}", operations={"read": self._creds}),
            Route(pattern=f"rotate-role/{NAME}", operations={"update": self._rotate_now}),
        )

    def has(self, name: str) -> bool:
        """
        Tell whether *name* is one.
        """
        return name in self._roles

    def close(self) -> None:
        """
        Rotate no more.
        """
        for name in list(self._roles):
            self._forget(name)

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        role = self._roles.get(fields.text("name"))
        if role is None:
            return None
        data = {
            "credential_type": "password",
            "db_name": role.db_name,
            "last_vault_rotation": show_time(role.rotated),
            "rotation_statements": role.statements,
            "username": role.username,
            **role.when(),
        }
        return Reply(data=data | ({"credential_config": role.credential_config} if role.credential_config else {}))

    def _write(self, _request: Request, fields: Fields) -> None:
        """
        Make a role, which rotates its password, or change one, which does not. vault: ``pathStaticRoleCreateUpdate``.
        """
        name = fields.text("name")
        if self._taken(name):
            raise refused("Role and Static Role names must be unique")
        known = self._roles.get(name)
        role = self._checked(name, known, fields)
        if known is None:
            try:
                self._rotate(role)
            except BackendError as error:
                raise failed(str(error)) from None
            self._roles[name] = role
        role.statements = fields.get("rotation_statements", role.statements)
        role.credential_config = fields.get("credential_config", role.credential_config)
        self._arm(role, role.following(role.rotated))

    def _checked(self, name: str, known: _Role | None, fields: Fields) -> _Role:
        """
        Return the new role, or *known* changed as far as it decides when and where to rotate.
        """
        db_name = fields.get("db_name", "" if known is None else known.db_name)
        username = fields.text("username")
        if not db_name:
            raise refused("database name is a required field")
        if not username and known is None:
            raise refused("username is a required field to create a static account")
        if known is not None and known.username != username:
            raise refused("cannot update static account username")
        period, schedule, window = self._timing(known, fields)
        kind = fields.get("credential_type", "password")
        if kind != "password":
            raise refused(f'invalid credential_type "{kind}"')
        role = known or _Role(
            name=name,
            db_name=db_name,
            username=username,
            statements=fields.get("rotation_statements", []),
            credential_config=fields.get("credential_config", {}),
        )
        role.db_name, role.period, role.schedule, role.window = db_name, period, schedule, window
        return role

    def _timing(self, known: _Role | None, fields: Fields) -> tuple[int, Schedule | None, int]:
        """
        Return the period, the schedule and its window.
        """
        if fields.sent("rotation_schedule") and self._core.flavor.schedules:
            return self._scheduled(fields)
        if not fields.sent("rotation_period"):
            if known is None:
                raise refused(
                    "one of rotation_schedule or rotation_period must be provided to create a static account"
                    if self._core.flavor.schedules
                    else "rotation_period is required to create static accounts"
                )
            return known.period, known.schedule, known.window
        if fields.get("rotation_period") < _TICK:
            raise refused(f"rotation_period must be {_TICK} seconds or more")
        if fields.sent("rotation_window"):
            raise refused("rotation_window is invalid with use of rotation_period")
        return fields.get("rotation_period"), None, 0

    def _scheduled(self, fields: Fields) -> tuple[int, Schedule, int]:
        if fields.sent("rotation_period"):
            raise refused(
                "mutually exclusive fields rotation_period and rotation_schedule were both specified; "
                "only one of them can be provided"
            )
        try:
            schedule = parse_schedule(fields.text("rotation_schedule"))
        except ValueError as error:
            raise refused(f"could not parse rotation_schedule: {error}") from None
        window = fields.get("rotation_window", 0)
        if fields.sent("rotation_window") and window < _SHORTEST_WINDOW:
            raise refused(f"rotation_window must be {_SHORTEST_WINDOW} seconds or more")
        return 0, schedule, window

    def _delete(self, _request: Request, fields: Fields) -> None:
        """
        Forget the role; the database user and its password stay.
        """
        self._forget(fields.text("name"))

    def _forget(self, name: str) -> None:
        role = self._roles.pop(name, None)
        if role is not None:
            self._core.leases.timers.cancel(self._timer(role))

    def _creds(self, _request: Request, fields: Fields) -> Reply:
        name = fields.text("name")
        role = self._roles.get(name)
        if role is None:
            raise refused(f"unknown role: {name}")
        try:
            self._connections.allowed(role.db_name, name)
        except BackendError as error:
            raise failed(str(error)) from None
        password, rotated = role.password, role.rotated
        if role.previous is not None and self._core.faults.claim("stale-static"):
            password, rotated = role.previous
        now = self._core.clock.now()
        # vault: by a schedule the `ttl` counts to the next instant, although that of the last one may be still to come.
        end = role.following(rotated if role.schedule is None else now)
        data = {
            "last_vault_rotation": show_time(rotated),
            "password": password,
            "ttl": max(0, round_half_up(end - now)),
            "username": role.username,
            **role.when(),
        }
        return Reply(data=data)

    def _rotate_now(self, _request: Request, fields: Fields) -> None:
        role = self._roles.get(fields.text("name"))
        if role is None:
            raise refused("no static role found for role name")
        try:
            self._rotate(role)
        except BackendError as error:
            self._arm(role, self._core.clock.now() + _PAUSE)
            raise failed(
                "unable to finish rotating credentials; retries will continue in the background but it is also safe "
                f"to retry manually: {error}"
            ) from None
        self._arm(role, role.following(role.rotated))

    def _rotate(self, role: _Role) -> None:
        """
        Change the password in the database, then here. vault: ``setStaticAccount``; raise BackendError.
        """
        with role.lock:
            config = self._connections.allowed(role.db_name, role.name)
            plugin = self._connections.plugin(role.db_name)
            role.next_password = role.next_password or self._connections.new_password(config, role.credential_config)
            try:
                plugin.change_password(role.statements, role.username, role.next_password)
            except BackendError as error:
                raise BackendError(f"error setting credentials: {error}") from None
            role.previous = (role.password, role.rotated) if role.password else None
            role.password, role.next_password, role.rotated = role.next_password, "", self._core.clock.now()

    def _timer(self, role: _Role) -> str:
        return f"rotation:{id(self)}:{role.name}"

    def _arm(self, role: _Role, due: float) -> None:
        """
        Rotate *role* with the first tick in or after the second of *due*.
        """
        role.due = due
        ticks = max(0, ceil((floor(due) - self._started) / _TICK))
        at = max(self._started + ticks * _TICK, self._core.clock.now())
        self._core.leases.timers.set(self._timer(role), at, lambda: self._tick(role))

    def _tick(self, role: _Role) -> None:
        if self._roles.get(role.name) is not role:
            return
        now = self._core.clock.now()
        if role.schedule is not None and role.window and now > role.due + role.window:
            # vault: a window that was missed is not made up for.
            self._arm(role, role.following(now))
            return
        try:
            self._rotate(role)
        except BackendError:
            self._arm(role, now + _PAUSE)
            return
        self._arm(role, role.following(role.rotated))
