"""
VaultPool: a pool that looks after its own credentials.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import math
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool.abc import CT, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam

from vault_pool.core.machine import LeaseState, Phase
from vault_pool.core.policy import RenewalPolicy
from vault_pool.errors import (
    ConfigurationError,
    PoolClosed,
    PoolError,
    PoolTimeout,
    VaultError,
    fold,
)
from vault_pool.events import Event
from vault_pool.runtime import forking, scheduler
from vault_pool.runtime.hot_swap import HotSwapPool
from vault_pool.runtime.hot_swap.assumed import AssumedRole
from vault_pool.runtime.hot_swap.checkout import DebugCheckout
from vault_pool.runtime.hot_swap.doubt import Sign
from vault_pool.runtime.hot_swap.holder import closed, positive
from vault_pool.runtime.tenant import Outage, Tenant
from vault_pool.runtime.transaction import Transaction
from vault_pool.runtime.watcher import Watcher, forget, watcher_of
from vault_pool.sources.base import Source

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

logger = logging.getLogger("vault_pool.pool")

#: The least time, in seconds, that ``close()`` leaves Vault for ending the leases.
REVOKING_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """
    What is known of a pool at one moment. Durations are in seconds; nothing in it is secret.

    *generation* counts from 1 and grows by one with each rotation; it is 0 before the first. *phase* is the phase of
    the lease, *expires_in* the time until the credential stops working (None: there is none, or it has no end; below 0:
    it has lapsed), *renewable* whether renewing buys time. *sessions* counts the open connections of the current
    generation, *retiring* has the number of each that is being used up, and how many it still has. *leases_ending*
    counts the leases that have been succeeded and that Vault has not ended yet. *last_error* is the text of what is in
    the way, None where nothing is.
    """

    name: str
    source: str
    generation: int
    phase: str
    user: str | None
    lease_id: str | None
    expires_in: float | None
    renewable: bool
    sessions: int
    retiring: tuple[tuple[int, int], ...]
    leases_ending: int
    last_error: str | None
    closed: bool


class VaultPool(HotSwapPool[CT]):
    """
    A `psycopg_pool.ConnectionPool` whose user and password come from *source*, and change while it is used.

    *conninfo* and *kwargs* say where the database is, and hold no user and no password. All arguments that are not
    named here are psycopg_pool's, with the same meaning; durations are in seconds.

    * *overlap*: the number of connections beyond *max_size* that a rotation may use.
    * *retire_timeout*: what old connections should have for coming back. Then the log names who holds them (with
      *debug* also by which calls), and *on_retire_timeout* says whether what they are doing is cancelled. Those of a
      revoked lease are cut off.
    * *lookup_interval* (None: never): how often Vault is asked whether the lease is in force; a little less, so that
      processes spread.
    * *assume_role*: a role that sessions act as, whatever user they logged in as. A transaction in flight survives the
      removal of its user then, and sessions of a lease that is over are cut off at *retire_timeout*.
    * *on_lapse*: what becomes of open sessions when the lease ends while Vault does not answer. ``"keep"`` them (nobody
      revokes them meanwhile), or ``"close"`` them and have clients wait. With an assumed role, keeping them ends after
      *max_lapse* (None: as long as the lease was granted for).
    * *policy*: the timing rules of the lease; *on_event* is called with each `Event`, in order, on a worker thread.
    * *runtime*: the clock and the threads, for tests; all pools of a process share one.

    The constructor does no I/O. Thread-safe, as `HotSwapPool` is.
    """

    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        source: Source,
        connection_class: type[CT] = Connection,  # type: ignore[assignment] # by a cast, pyright would lose the default
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        overlap: int | None = None,
        retire_timeout: float = 30.0,
        on_retire_timeout: Literal["log", "cancel"] = "log",
        lookup_interval: float | None = 60.0,
        assume_role: str | None = None,
        on_lapse: Literal["keep", "close"] = "keep",
        max_lapse: float | None = None,
        policy: RenewalPolicy | None = None,
        on_event: Callable[[Event], None] | None = None,
        debug: bool = False,
        open: bool = False,  # noqa: A002 - psycopg_pool's name
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        reconnect_timeout: float = 300.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
        runtime: scheduler.Runtime | None = None,
    ) -> None:
        if open:
            raise ConfigurationError("open=True is not supported: use `with VaultPool(...)` or call open()")
        _check(conninfo, kwargs, min_size, max_size)
        options: dict[str, Any] = {
            "min_size": min_size,
            "max_size": max_size,
            "name": name,
            "close_returns": close_returns,
            "timeout": positive("timeout", timeout),
            "max_waiting": max_waiting,
            "max_lifetime": positive("max_lifetime", max_lifetime),
            "max_idle": positive("max_idle", max_idle),
            "reconnect_timeout": reconnect_timeout,
            "num_workers": num_workers,
        }
        callbacks = {"configure": configure, "check": check, "reset": reset, "reconnect_failed": reconnect_failed}
        options.update({key: callback for key, callback in callbacks.items() if callback is not None})
        self._init_holder(retire_timeout)
        role = None if assume_role is None else AssumedRole(assume_role)
        self._prepare(conninfo, connection_class, kwargs, overlap, options, role=role)
        self._name = name or f"vault_pool-{next(_numbers)}"
        _named[self._name] = self
        self._cancels = _choice("on_retire_timeout", on_retire_timeout, "log", "cancel") == "cancel"
        if debug:
            self._checkout = DebugCheckout
        self._reaper = self._new_reaper()
        self._source = source
        self._runtime = runtime or scheduler.shared
        self._now = self._runtime.clock.now
        self._policy = policy or RenewalPolicy(retire_timeout=retire_timeout)
        self._lookup_interval = math.inf if lookup_interval is None else positive("lookup_interval", lookup_interval)
        self._watcher: Watcher | None = None
        self._tenant = Tenant(self, source.name, self._runtime, on_event, _outage(on_lapse, max_lapse, role))

    # --- Settings ----------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: Mapping[str, Any], prefix: str = "", **arguments: Any) -> Self:
        """
        Make a pool by the settings in *config*: all keys, or those that begin with *prefix*, in any case.

        ``python -m vault_pool.settings`` prints the table of settings. *arguments* are further ones of the
        constructor, and go before *config*. Pools with the same settings of Vault share a `Vault` in this process, and
        so its token; those that have the same source as well share its lease, and rotate together.

        Raises `ConfigurationError`, which names the key; no value that may be a secret is in it. No I/O but imports.
        """
        from vault_pool.settings.making import pool  # noqa: PLC0415 - a pool that is made in code needs no table

        made = pool(cls, config, prefix, arguments, strict=True)
        del config, arguments
        if isinstance(made, str):
            raise ConfigurationError(made)
        return made

    @classmethod
    def from_env(cls, prefix: str = "VAULT_POOL_", **arguments: Any) -> Self:
        """
        Do the same as `from_config` by the environment: *prefix* and the name of the setting, in capitals.

        An empty variable counts as none, and one that is no setting is an error if it looks like a mistyped one.
        """
        from vault_pool.settings.making import pool  # noqa: PLC0415 - as above

        given = {key: text for key, text in os.environ.items() if text.strip()}
        made = pool(cls, given, prefix, arguments, strict=False)
        del given, arguments
        if isinstance(made, str):
            raise ConfigurationError(made)
        return made

    @classmethod
    def find(cls, name: str) -> VaultPool[Any] | None:
        """
        Return the pool that was given this *name* last and is not closed, be it open yet or not; None if there is none.
        """
        pool = _named.get(name)
        return None if pool is None or pool._closed else pool

    # --- Life --------------------------------------------------------------------------------------------

    def start_over(self) -> None:
        """
        Have no lease, in a child of fork; called there by itself. What was open gets its own at the first use.
        """
        self._inherited = self._inherited or self._watcher is not None
        self._watcher = None
        self._tenant.start_over()
        _open_pools.discard(self)
        super().start_over()

    def _open_anew(self) -> None:
        if self._watcher is None and not self._closed:
            self.open(wait=False)

    def __enter__(self) -> Self:
        self.open()
        return self

    def open(self, wait: bool = True, timeout: float = 30.0) -> None:
        """
        Begin the watch; with *wait*, return when ``min_size`` connections are there. Nothing if the pool is open.

        Troubles that may pass are tried again for *timeout* seconds, then raised; what somebody has to mend is
        raised at once (`VaultError`, `PoolError`), and nothing is left behind: `open` may be called again.
        With ``wait=False`` the attempts go on in the background, and checkouts wait for them.
        """
        forking.settle()
        with self._lock:
            if self._closed:
                raise PoolClosed("pool has already been opened/closed and cannot be reused")
            if self._watcher is None:
                self._tenant.last_error = None
                self._watcher = watcher_of(self._source, self._policy, self._runtime, self._lookup_interval)
                self._tenant.watcher = self._watcher
                _open_pools.add(self)
                opening = self._watcher
            else:
                opening = None
        if opening is not None:
            opening.attach(self._tenant)
        if wait and (opening is not None or self._current is None):
            self._wait(timeout, began=opening is not None)

    def wait(self, timeout: float = 30.0) -> None:
        """
        Wait up to *timeout* seconds until ``min_size`` connections are there; else raise what was in the way.

        A pool that has not served yet is closed then, as psycopg_pool does; `open` may be called again. One that has
        goes on: it recovers by itself. `PoolClosed` where the pool is not open, or was closed meanwhile.
        """
        self._wait(timeout, began=False)

    def _wait(self, timeout: float, *, began: bool) -> None:
        deadline = monotonic() + timeout
        while True:
            with self._changed:
                if self._watcher is None:
                    raise closed(self.name) if self._closed else PoolClosed(f"the pool {self.name!r} is not open yet")
                self._changed.wait_for(
                    lambda: self._current or self._closed or _hopeless(self._tenant.last_error), deadline - monotonic()
                )
                if self._closed:
                    raise closed(self.name)
                current, error = self._current, self._tenant.last_error
            if current is None:
                break
            enough = current.pool.min_size
            ready = current.wait(enough, deadline - monotonic())
            if ready >= enough:
                return
            if not current.retired:
                reason = fold(current.last_error) if current.last_error else "see the log of psycopg.pool"
                error = PoolTimeout(f"{ready} of {enough} connections were ready after {timeout:g} s: {reason}")
                break
        if began or not self._tenant.number:
            self._stop(0.0)
        if error is None:
            raise PoolTimeout(f"no credential from {self._source.name} after {timeout:g} s")
        raise error.with_traceback(None) from None

    def close(self, timeout: float = 5.0) -> None:
        """
        Refuse new checkouts, wait up to *timeout* seconds for borrowed connections, then end the leases.

        Who still holds a connection then is named in the log. Vault gets a few seconds more for revoking.
        """
        forking.settle()
        with self._lock:
            if self._closed:
                return
            self._closed = self._watcher is not None or self._inherited
            self._changed.notify_all()
        self._stop(timeout)

    def _stop(self, timeout: float) -> None:
        """
        Retire what serves, leave the watch, and end the threads.
        """
        deadline = monotonic() + timeout
        with self._lock:
            watcher, self._watcher, self._tenant.watcher = self._watcher, None, None
            _open_pools.discard(self)
            self._changed.notify_all()
        self._vacate()
        if watcher is not None:
            for generation in self._reaper.wait(timeout):
                self._reaper.complain(generation)
            watcher.detach(self._tenant, max(REVOKING_TIMEOUT, deadline - monotonic()))
            forget(watcher)
        self._reaper.close(timeout=1.0)
        self._reaper = self._new_reaper()

    @property
    def closed(self) -> bool:
        """
        Whether the pool is closed, or not open yet.
        """
        return self._closed or (self._watcher is None and not self._inherited)

    def __del__(self) -> None:
        # A child that no hook of fork has seen may still believe that the parent's lease is its own.
        if self.__dict__.get("_watcher") is None or not forking.here():
            return
        # Finalizers run wherever the collector does, locks held or not: closing is for a thread of its own,
        # which the interpreter waits for when it exits.
        threading.Thread(target=self.close, name=f"{self._name}-close").start()
        if not self._inherited:
            warnings.warn(f"{self!r} was not closed: use `with`, or call close()", ResourceWarning, stacklevel=2)

    # --- Transactions --------------------------------------------------------------------------------------

    def run(
        self,
        fn: Callable[[CT], T],
        *,
        attempts: int = 3,
        timeout: float | None = None,
        retry_serialization: bool = False,
        retry_unknown_commit: bool = False,
    ) -> T:
        """
        Run *fn* with a connection, in a transaction, and return what it returns; run it again where that is safe.

        It is run again, on the successor, when its credential was revoked or its session was lost before COMMIT was
        sent; with *retry_serialization* also after a serialization failure or a deadlock, with *retry_unknown_commit*
        also when the session was lost while COMMIT was on its way, so that it may have taken effect. It is not run
        again after anything else: what a constraint refused would be refused again. There are at most *attempts*
        attempts, all within *timeout* seconds (None: each checkout has the pool's); then the last error is raised.

        *fn* must therefore be idempotent in what it does outside of the database (mail, files, other services), must
        neither commit nor roll back by itself (psycopg forbids that inside of `Connection.transaction`), and must not
        keep the connection. Thread-safe.
        """
        transaction = Transaction(self, fn, serialization=retry_serialization, unknown=retry_unknown_commit)
        return transaction.run(attempts, timeout)

    # --- Rotation ----------------------------------------------------------------------------------------

    def rotate(self, wait: bool = True, timeout: float | None = None) -> None:
        """
        Replace the credential now; with *wait*, return when the new generation serves.

        Raises what was in the way, or `PoolTimeout` after *timeout* seconds (None: the pool's own); the current
        generation serves on then, and the attempts go on. `PoolClosed` where the pool is not open, or was closed
        meanwhile.
        """
        forking.settle()
        self._open_inherited()
        tenant = self._tenant
        with self._changed:
            watcher, number, tenant.last_attempt = self._watcher, tenant.number, None
            if watcher is None:
                raise PoolClosed(f"the pool {self.name!r} is not open")
        watcher.rotate()
        if not wait:
            return
        whole = self.timeout if timeout is None else timeout
        with self._changed:
            self._changed.wait_for(lambda: tenant.number > number or tenant.last_attempt or self._closed, whole)
            error = tenant.last_attempt
            if tenant.number > number:
                return
            if self._closed:
                raise closed(self.name)
        if error is None:
            raise PoolTimeout(f"no successor from {self._source.name} after {whole:.2f} sec")
        raise error.with_traceback(None) from None

    def report_lost(self, conn: CT | None = None) -> None:
        """
        Tell the pool that the credential of *conn* (default: the current one) is lost, or of no use any more.

        For what the pool cannot see, an error of a pooler in between, for example. Sessions are asked before they are
        lent; one that confirms it has the generation retired at once, and its clients wait for the successor. If none
        does, a successor is fetched while the current generation serves on; reports that follow each other closely
        fetch none. Nothing if that generation is retired already. Thread-safe; no I/O.
        """
        generation = self._current if conn is None else getattr(conn, "_generation", None)
        if generation is not None:
            generation.suspect()
            self._tenant.suspect(generation, Sign.REPORT)

    def status(self) -> PoolStatus:
        """
        Return what is known of the pool now. No I/O.
        """
        forking.settle()
        with self._lock:
            watcher, current, closed, error = self._watcher, self._current, self.closed, self._tenant.last_error
        state = watcher.state if watcher is not None else None
        lease = state.lease if state is not None else None
        return PoolStatus(
            name=self._name,
            source=self._source.name,
            generation=self._tenant.number,
            phase=(Phase.ENDED if state is None else state.phase).value,
            user=current.credential.user if current is not None and current.credential is not None else None,
            lease_id=lease.lease_id if lease is not None else None,
            expires_in=_left(state, watcher),
            renewable=lease is not None and lease.renewable,
            sessions=current.live() if current is not None else 0,
            retiring=tuple((generation.number, generation.live()) for generation in self._reaper.retiring()),
            leases_ending=len(watcher.endings) if watcher is not None else 0,
            last_error=str(error) if error is not None else None,
            closed=closed,
        )

    def _trouble(self) -> BaseException | None:
        current, error = self._current, self._tenant.last_error
        if current is not None and current.lapsed:
            why = error or "Vault does not answer"
            reason = PoolError(f"the lease has ended, and there is no successor yet: {why}")
            reason.__cause__ = error
            return reason
        refused = current.last_error if current is not None else None
        return refused or error


def _left(state: LeaseState | None, watcher: Watcher | None) -> float | None:
    left = math.inf if state is None or watcher is None else state.deadline - watcher.now()
    return left if left < math.inf else None


def _check(conninfo: ConninfoParam, kwargs: KwargsParam | None, min_size: int, max_size: int | None) -> None:
    """
    Raise `ConfigurationError` for arguments that cannot work.
    """
    if isinstance(conninfo, str):
        scheme = conninfo.partition("://")[0]
        if "+" in scheme and "://" in conninfo:
            raise ConfigurationError(
                f"conninfo must be libpq's: {scheme}:// is SQLAlchemy's form of a URL; write postgresql:// instead"
            )
        try:
            given = conninfo_to_dict(conninfo)
        except Exception:  # noqa: BLE001 - its text may quote a password
            given = None
        if given is None:
            raise ConfigurationError("conninfo is no connection string that libpq understands")
        _no_credential("conninfo", given)
    if isinstance(kwargs, dict):
        _no_credential("kwargs", kwargs)
    if isinstance(min_size, bool) or not isinstance(min_size, int) or min_size < 0:
        raise ConfigurationError(f"min_size must be a number of at least 0, not {min_size!r}")
    most = min_size if max_size is None else max_size
    if isinstance(most, bool) or not isinstance(most, int) or most < max(1, min_size):
        raise ConfigurationError(
            f"max_size must be at least 1 and at least min_size ({min_size}), not {most!r}: raise max_size"
        )


def _choice(setting: str, value: str, *choices: str) -> str:
    if value not in choices:
        raise ConfigurationError(f"{setting} must be {' or '.join(map(repr, choices))}, not {value!r}")
    return value


def _outage(on_lapse: str, max_lapse: float | None, role: AssumedRole | None) -> Outage:
    """
    Return what the settings mean. Without an assumed role Vault's dropping the role ends the sessions by itself.
    """
    keep = _choice("on_lapse", on_lapse, "keep", "close") == "keep"
    if max_lapse is not None:
        max_lapse = positive("max_lapse", max_lapse)
        if role is None:
            raise ConfigurationError("max_lapse is for pools with an assumed role: set assume_role, or leave it out")
    return Outage(keep=keep, longest=math.inf if role is None else max_lapse)


def _no_credential(setting: str, given: dict[str, Any]) -> None:
    found = [key for key in ("user", "password", "passfile") if given.get(key)]
    if found:
        raise ConfigurationError(
            f"{setting} holds {' and '.join(found)}, but the source brings them: remove {' and '.join(found)}"
        )


def _hopeless(error: Exception | None) -> bool:
    return isinstance(error, ConfigurationError) or (isinstance(error, VaultError) and not error.retryable)


_numbers = itertools.count(1)
_open_pools: weakref.WeakSet[VaultPool[Any]] = weakref.WeakSet()
_named: weakref.WeakValueDictionary[str, VaultPool[Any]] = weakref.WeakValueDictionary()


@atexit.register
def _close_forgotten() -> None:
    forking.settle()
    forgotten = list(_open_pools)
    for pool in forgotten:
        pool.close()
    # A pool that was inherited by fork opened by itself: nobody could know that it had to be closed.
    for pool in [pool for pool in forgotten if not pool._inherited]:
        # Only now: where warnings are errors, the first one ends this.
        warnings.warn(f"{pool!r} was not closed: use `with`, or call close()", ResourceWarning, stacklevel=1)
