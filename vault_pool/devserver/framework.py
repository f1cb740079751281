"""
The frame in which engines answer: requests, replies, routes and typed fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from vault_pool.devserver.errors import refused, unsupported_operation, unsupported_path
from vault_pool.devserver.field_types import Converter, show_go
from vault_pool.devserver.flavor import Flavor
from vault_pool.devserver.ttl import Wish

if TYPE_CHECKING:
    from vault_pool.devserver.leases import Lease
    from vault_pool.devserver.token_entry import Auth, TokenEntry

# vault: ``framework.GenericNameRegex``.
NAME: Final = r"(?P<name>\w(?:[\w.-]*\w)?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    One request, as engines see it.

    *operation* is Vault's word: read, list, create, update, delete, patch or help. *path* has no ``/v1/``; in an engine
    it has no mount point either (*mount_point* has it). *wrap_ttl*, in seconds, asks for a wrapped answer.
    *inline_login* is to be done first, for a token. *certificate* is the client's, in DER, if TLS checked one.
    """

    operation: str
    path: str
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)
    remote_address: str = "127.0.0.1"
    entry: TokenEntry | None = None
    mount_point: str = ""
    wrap_ttl: int = 0
    inline_login: Request | None = None
    certificate: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """
    What an engine issued and wants a lease for; *internal* is what it needs to renew or revoke it.
    """

    wish: Wish
    internal: Mapping[str, Any] = field(repr=False)


@dataclass(slots=True, kw_only=True)
class Reply:
    """
    A success. *flat*: the data's keys stand beside the envelope's as well (old system endpoints do so).
    """

    data: dict[str, Any] | None = field(default=None, repr=False)
    secret: Secret | None = None
    auth: Auth | None = None
    lease: Lease | None = None
    lease_duration: int = 0
    warnings: list[str] = field(default_factory=list)
    status: int | None = None
    flat: bool = False


class Fields:
    """
    The path's captures and the body's known fields, with their declared types.

    A field that was not sent is absent: `sent()` tells, and `get()` gives the default.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sorted(self._values)})"

    def sent(self, name: str) -> bool:
        """
        Tell whether *name* was sent.
        """
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """
        Return the value of *name*.
        """
        return self._values.get(name, default)

    def text(self, name: str) -> str:
        """
        Return the text *name*, empty if it was not sent.
        """
        return str(self._values.get(name, ""))

    def within(self, names: Sequence[str]) -> dict[str, Any]:
        """
        Return those of *names* that were sent.
        """
        return {name: self._values[name] for name in names if name in self._values}


Handler = Callable[[Request, Fields], Reply | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """
    A path of an engine: what it looks like, which fields it knows, and who answers which operation.

    *exists*, where given, tells a create from an update (vault: ``ExistenceCheck``). *any_field*: all fields are known.
    """

    pattern: str
    fields: Mapping[str, Converter] = field(default_factory=dict)
    operations: Mapping[str, Handler]
    exists: Callable[[Request, Fields], bool] | None = None
    any_field: bool = False

    def match(self, path: str) -> dict[str, str] | None:
        """
        Return the captures if the whole *path* has this form.
        """
        found = re.fullmatch(self.pattern, path)
        return None if found is None else {name: text for name, text in found.groupdict().items() if text is not None}

    def parse(self, request: Request, captures: Mapping[str, str], flavor: Flavor) -> tuple[Fields, list[str]]:
        """
        Return the typed fields and the names of those that this path does not know.
        """
        values: dict[str, Any] = dict(captures)
        for name, convert in self.fields.items():
            if name not in request.data or name in captures:
                continue
            raw = request.data[name]
            try:
                values[name] = convert(raw, flavor)
            except (ValueError, TypeError) as error:
                text = flavor.conversion_error(show_go(raw), name, str(error))
                checked = self.exists is not None and request.operation in {"create", "update"}
                raise refused(text if checked else f"Field validation failed: {text}") from None
        unknown = [] if self.any_field else sorted(set(request.data) - set(self.fields) - set(captures))
        return Fields(values), unknown


class Engine(Protocol):
    """
    A secrets engine, an auth method or the system itself, mounted somewhere.
    """

    @property
    def kind(self) -> str:
        """
        Vault's name for the type.
        """

    @property
    def routes(self) -> Sequence[Route]:
        """
        The paths; the first that matches counts.
        """

    @property
    def open_paths(self) -> Sequence[str]:
        """
        The relative paths that need no token; ``*`` ends a prefix.
        """

    @property
    def sudo_paths(self) -> Sequence[str]:
        """
        The relative paths that need the sudo capability; ``*`` ends a prefix.
        """

    def close(self) -> None:
        """
        Let go of everything; the mount is gone.
        """


def find_route(engine: Engine, path: str) -> tuple[Route, dict[str, str]]:
    """
    Return the route for *path*, relative to the mount, and its captures.
    """
    for route in engine.routes:
        captures = route.match(path)
        if captures is not None:
            return route, captures
    raise unsupported_path()


def needs_create(engine: Engine, request: Request, flavor: Flavor) -> bool:
    """
    Tell whether an update, *request* with a relative path, makes something new.
    """
    for route in engine.routes:
        captures = route.match(request.path)
        if captures is not None:
            return route.exists is not None and not route.exists(request, route.parse(request, captures, flavor)[0])
    return False


def answer(engine: Engine, request: Request, flavor: Flavor) -> Reply | None:
    """
    Let *engine* answer *request*, whose path is relative to the mount.

    vault: ``framework.Backend.HandleRequest``; fields that the path does not know are ignored, with a warning if there
    is an answer to put it in.
    """
    route, captures = find_route(engine, request.path)
    handler = route.operations.get(request.operation)
    if handler is None and request.operation == "create":
        handler = route.operations.get("update")
    if handler is None:
        raise unsupported_operation()
    fields, unknown = route.parse(request, captures, flavor)
    reply = handler(request, fields)
    if reply is not None and unknown:
        reply.warnings.append(f"Endpoint ignored these unrecognized parameters: [{' '.join(unknown)}]")
    return reply


def keys(names: Sequence[str]) -> Reply | None:
    """
    Return the answer to a list of *names*; nothing to list is nothing found.
    """
    return Reply(data={"keys": sorted(names)}) if names else None


def relative(request: Request, mount_point: str, path: str, entry: TokenEntry | None) -> Request:
    """
    Return *request* as the engine at *mount_point* sees it.
    """
    return replace(request, path=path, mount_point=mount_point, entry=entry)
