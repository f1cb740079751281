"""
Faults that tests provoke: answers that are late, lost, cut, or something else.

`DevServer.inject()`, ``vault-pool devserver --fault KIND,name=value…`` and ``POST /devserver/faults`` inject them;
several may be in force. Each kind has the settings `path` (a prefix, without ``/v1/``), `operation` (read, list,
update, delete or patch) and `times` (so many requests meet it), and those named here:

====================  =======================  ========================================================================
kind                  settings                 what happens
====================  =======================  ========================================================================
`sealed`              `after`                  503 `Vault is sealed`; `sys/health` is 503, too
`standby`             `address`, `after`       a standby: `sys/health` is 429; else 307 to the active node at *address*,
                                               503 `no active Vault instance found` without one
`standby-reads`                                a standby of OpenBao 2.5: `sys/health` is 429; renewing or revoking a
                                               lease, and wrapping, answer 500, when the database's part is done
`performance-standby`                          a performance standby of Vault Enterprise: `sys/health` is 473
`rate-limited`        `retry_after`, `after`   429 of a rate limit quota; *retry_after* (seconds) adds its headers
`lease-limited`       `after`                  429 of a lease count quota
`behind`              `after`                  412 `required index state not present`
`header-required`     `after`                  412 unless `X-Vault-Request: true` was sent (Vault Agent)
`error`               `status`, `after`        a 5xx: 500 is Vault's `internal error`, others are a proxy's page
`denied`              `after`                  403 of a policy
`bad-token`           `after`                  403 of a dead token, in the flavor's words
`slow`                `seconds`, `after`       the answer takes *seconds* longer
`hang`                `after`                  the answer is held until the fault ends
`drop`                `after`                  the connection is closed without an answer
`cut`                                          the answer ends in its middle, and so does the connection
`truncated`           `seconds`                renewing a lease or token gives *seconds* at most, as near its max_ttl
`stale-static`                                 a static role is read as it was before its last rotation
`mfa`                                          a login answers with an `mfa_requirement` instead of a token
`agent-cache`         `token`                  a caching Vault Agent: `X-Cache`, `Age`, renewals from the cache;
                                               requests without a token get *token* (auto-auth)
====================  =======================  ========================================================================

*after* true: the request is carried out first, and only then comes the fault. A fault of the whole server, such as
`sealed`, says so only: timers go on. (`DevServer.seal()` seals.)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing_extensions import Self

DELAYS: Final = ("slow", "hang")
# A health check tells these by its status.
STATES: Final = ("sealed", "standby", "standby-reads", "performance-standby")
ANSWERS: Final = (
    "sealed",
    "standby",
    "rate-limited",
    "lease-limited",
    "behind",
    "header-required",
    "error",
    "denied",
    "bad-token",
    "drop",
)
_OWN_SETTINGS: Final[Mapping[str, Collection[str]]] = {
    **dict.fromkeys((*ANSWERS, *DELAYS), ("after",)),
    "standby": ("address", "after"),
    "standby-reads": (),
    "performance-standby": (),
    "rate-limited": ("retry_after", "after"),
    "error": ("status", "after"),
    "slow": ("seconds", "after"),
    "cut": (),
    "truncated": ("seconds",),
    "stale-static": (),
    "mfa": (),
    "agent-cache": ("token",),
}
KINDS: Final = tuple(_OWN_SETTINGS)
_COMMON: Final = ("path", "operation", "times")
_WORDS: Final = {"true": True, "false": False}
_REQUEST: ContextVar[tuple[str, str] | None] = ContextVar("request", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    What is to happen to which requests; see the module's table. Make it with `parse()` or `check()`.
    """

    kind: str
    path: str = ""
    operation: str = ""
    times: int | None = None
    after: bool = False
    seconds: float = 1.0
    status: int = 500
    retry_after: int | None = None
    address: str = ""
    token: str = field(default="", repr=False)

    def matches(self, operation: str, path: str) -> bool:
        """
        Tell whether a request meets it.
        """
        return path.startswith(self.path) and self.operation in ("", operation)

    def show(self) -> dict[str, Any]:
        """
        Return the settings that this kind has; no secret.
        """
        shown = {name: getattr(self, name) for name in (*_COMMON, *_OWN_SETTINGS[self.kind]) if name != "token"}
        return {"fault": self.kind, **shown}


def check(kind: str, /, **settings: Any) -> Fault:
    """
    Return the fault, of texts or values; raise ValueError naming what is wrong with *kind* or *settings*.
    """
    if kind not in _OWN_SETTINGS:
        raise ValueError(f"no fault is called {kind!r}; there are {', '.join(KINDS)}")
    known = (*_COMMON, *_OWN_SETTINGS[kind])
    types = {one.name: str(one.type) for one in fields(Fault)}
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"the fault {kind} has no setting {name!r}; it has {', '.join(known)}")
        values[name] = _converted(kind, name, value, types[name])
    fault = Fault(kind=kind, **(values | {"path": values.get("path", "").removeprefix("/").removeprefix("v1/")}))
    if fault.operation not in ("", "read", "list", "update", "delete", "patch"):
        raise ValueError(f"the fault {kind}: operation is {fault.operation!r}, not read, list, update, delete or patch")
    return fault


def parse(text: str) -> Fault:
    """
    Return the fault of ``KIND,name=value,…``; raise ValueError.
    """
    kind, *rest = text.split(",")
    if odd := [one for one in rest if "=" not in one]:
        raise ValueError(f"the fault {kind}: {odd[0]!r} is not name=value")
    return check(kind, **{name: value for name, _, value in (one.partition("=") for one in rest)})


def _converted(kind: str, name: str, value: Any, wanted: str) -> Any:
    try:
        if wanted == "bool":
            return value if isinstance(value, bool) else _WORDS[str(value).lower()]
        if wanted == "str":
            return str(value)
        if value is None and "None" in wanted:
            return None
        number = float(value) if wanted == "float" else int(value)
        return number if number >= 0 else _WORDS[str(value)]
    except (KeyError, TypeError, ValueError):
        kinds = {"bool": "true or false", "float": "a number of seconds"}
        raise ValueError(f"the fault {kind}: {name} is {value!r}, not {kinds.get(wanted, 'a whole number')}") from None


class Injection:
    """
    A fault in force, until `end()`, the end of a ``with`` block, or its `times` are over. Thread-safe.
    """

    def __init__(self, faults: Faults, number: int, fault: Fault) -> None:
        self.number = number
        self.fault = fault
        self.met = 0
        self._faults = faults
        self._felt = threading.Semaphore(0)
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.fault!r}, met={self.met})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """
        Be no longer in force; what is held goes on.
        """
        self._faults.forget(self)
        self._ended.set()

    def wait_met(self, timeout: float = 10.0) -> bool:
        """
        Wait until one more request has met it (and is held, where it holds); False after *timeout* seconds.
        """
        return self._felt.acquire(timeout=timeout)

    def claim(self) -> bool:
        """
        Count a request that meets it, under the registry's lock; False when its times are over.
        """
        if self.fault.times is not None and self.met >= self.fault.times:
            return False
        self.met += 1
        return True

    def felt(self) -> None:
        """
        Tell those who wait that a request has met it.
        """
        self._felt.release()

    def hold(self) -> None:
        """
        Delay the calling thread, which carries a request.
        """
        self.felt()
        self._ended.wait(self.fault.seconds if self.fault.kind == "slow" else None)

    def show(self) -> dict[str, Any]:
        """
        Return it as ``/devserver/faults`` shows it.
        """
        return {"id": self.number, **self.fault.show(), "met": self.met}


class Faults:
    """
    The faults in force. Thread-safe.

    A thread that carries a request (`meeting()`) asks where it can meet one (`claim()`), deep in an engine as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._injections: dict[int, Injection] = {}
        self._made = 0

    def inject(self, fault: Fault) -> Injection:
        """
        Put *fault* in force.
        """
        with self._lock:
            self._made += 1
            injection = self._injections[self._made] = Injection(self, self._made, fault)
        return injection

    def all(self) -> list[Injection]:
        """
        Return those in force, oldest first.
        """
        with self._lock:
            return list(self._injections.values())

    def forget(self, injection: Injection) -> None:
        """
        Take it out of force.
        """
        with self._lock:
            self._injections.pop(injection.number, None)

    def clear(self) -> None:
        """
        End all.
        """
        for injection in self.all():
            injection.end()

    @contextlib.contextmanager
    def meeting(self, operation: str, path: str) -> Iterator[None]:
        """
        Say which request this thread carries out inside the ``with`` block.
        """
        token = _REQUEST.set((operation, path))
        try:
            yield
        finally:
            _REQUEST.reset(token)

    def claim(self, *kinds: str, after: bool | None = None) -> Injection | None:
        """
        Return the oldest fault of *kinds* that this thread's request meets, and count it; None: there is none.
        """
        request = _REQUEST.get()
        if request is None or not self._injections:
            return None
        with self._lock:
            for injection in self._injections.values():
                fault = injection.fault
                if (
                    fault.kind in kinds
                    and after in (None, fault.after)
                    and fault.matches(*request)
                    and injection.claim()
                ):
                    break
            else:
                return None
        if fault.kind not in DELAYS:
            injection.felt()
        return injection

    def delay(self, *, after: bool) -> None:
        """
        Hold this thread as long as faults want it.
        """
        for kind in DELAYS:
            injection = self.claim(kind, after=after)
            if injection is not None:
                injection.hold()
