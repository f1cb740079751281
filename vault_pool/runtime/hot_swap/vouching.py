"""
Sessions that are asked before they are lent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Lock, RLock
from time import monotonic, sleep
from typing import Generic

from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT

from vault_pool.errors import PoolClosed
from vault_pool.runtime.hot_swap.doubt import WAIT, Doubt, Restraint, Sign, Verdict, Witness, examine
from vault_pool.runtime.hot_swap.tracking import dismiss

#: The first pause, in seconds, of a client that waits for a doubt to be settled.
SHORTEST_PAUSE = 0.005
_REQUESTS_NUM = "requests_num"


class Vouching(Generic[CT]):
    """
    What a generation does while it is doubted whether its role still exists. Without a witness it never is.

    Thread-safe: *doubt* is one reference, written under ``_doubting``. It is read when a connection has been obtained,
    so that whoever saw none obtained it before the reason for doubt was seen.
    """

    pool: ConnectionPool[CT]
    retired: bool
    revoked: bool
    getconn: Callable[[float | None], CT]
    putconn: Callable[[CT], None]

    def __init__(self) -> None:
        self.witness: Witness | None = None
        self.doubt: Doubt | None = None
        # The end of its lease, on the holder's clock.
        self.good_until = math.inf
        # Its lease has ended and there is no successor: open sessions are worth more than fresh ones.
        self.lapsed = False
        self._restraint = Restraint()
        # Reentrant, as is `Budget.changed`: a finalizer may give a connection back.
        self._doubting = RLock()
        self._inquiring = Lock()

    def connections(self) -> list[CT]:
        """
        Return the connections that are open.
        """
        raise NotImplementedError

    def suspect(self) -> None:
        """
        Have sessions asked before they are lent, until one answers: a statement failed as those of a lost role do.
        """
        if self.witness is None or self.retired:
            return
        now = monotonic()
        with self._doubting:
            known, until = self.doubt, now
            if known is not None and known.lasting:
                return
            if self._restraint.allows(now):
                self._restraint = self._restraint.asked(now)
                until += WAIT
            self.doubt = Doubt(until if known is None else max(until, known.until))

    def vouch(self, conn: CT, deadline: float) -> CT:
        """
        Return *conn*, or another one obtained until *deadline*, whose session says that its role exists.

        Raises `PoolClosed` when it says that it does not: the generation is retired then, and its clients go on.
        """
        witness, pause = self.witness, SHORTEST_PAUSE
        while witness is not None:
            doubt, asked_at = self.doubt, monotonic()
            try:
                verdict = examine(conn)
                if verdict is Verdict.ALIVE:
                    left = self._cleared(doubt, asked_at, witness)
                    if left <= 0 or asked_at >= deadline:
                        break
                    sleep(min(left, pause))
                    pause *= 2
                    continue
            except BaseException:
                # The client is interrupted: its place in the pool is not lost.
                self.putconn(conn)
                raise
            if verdict is Verdict.DEAD:
                self._dead(conn, witness)
                raise PoolClosed(f"the credential of pool {self.pool.name!r} was lost")
            conn.pgconn.finish()
            self.putconn(conn)
            conn = self.getconn(deadline - monotonic())
            # The application has asked once.
            self.pool._stats[_REQUESTS_NUM] -= 1
        return conn

    def lapse(self) -> None:
        """
        Keep what is open: there will be no fresh sessions. Each is asked before it is lent, whatever it may have met.
        """
        self.lapsed = True
        with self._doubting:
            self.doubt = Doubt(lasting=True)
        for conn in self.connections():
            # When they come back, psycopg_pool would replace those that are past their max_lifetime.
            conn._expire_at = math.inf

    def look_at(self, conn: CT, *, lending: bool = False) -> bool:
        """
        Ask the session of *conn*, which comes back after a sign; return False where it is dead, and closed.

        *lending*: it is on its way to a client. It stays open then, for `vouch` to refuse it.
        """
        witness, conn._suspect = self.witness, False  # type: ignore[attr-defined]  # ours
        if witness is None or self.retired:
            return True
        doubt, asked_at = self.doubt, monotonic()
        verdict = examine(conn)
        if verdict is Verdict.DEAD:
            self._dead(None if lending else conn, witness)
        elif verdict is Verdict.ALIVE:
            if doubt is not None:
                self._cleared(doubt, asked_at, witness)
            witness.suspect(self, Sign.STATEMENT)
        return verdict is not Verdict.DEAD

    def settle(self, conn: CT) -> bool:
        """
        Ask the session of *conn*, which has shown a sign and whose transaction is over, until the doubt is settled.

        Return whether its role is gone. It takes a round trip, and `WAIT` seconds at most.
        """
        witness = self.witness
        while witness is not None:
            doubt, asked_at = self.doubt, monotonic()
            verdict = examine(conn)
            if verdict is Verdict.DEAD:
                self._dead(conn, witness)
                return True
            if doubt is None or verdict is Verdict.BROKEN:
                break
            left = self._cleared(doubt, asked_at, witness)
            if left <= 0 or self.retired:
                break
            sleep(min(left, SHORTEST_PAUSE))
        return self.revoked

    def _cleared(self, doubt: Doubt | None, asked_at: float, witness: Witness) -> float:
        """
        Take note that a session is well that was asked at *asked_at*; return for how long none is to be lent yet.
        """
        if doubt is None:
            witness.late(self)
            return 0.0
        with self._doubting:
            # A newer reason may have come while the session answered: that one stays.
            if self.doubt is doubt and doubt.ends_by(asked_at):
                self.doubt = None
        return 0.0 if doubt.lasting else doubt.until - asked_at

    def _dead(self, conn: CT | None, witness: Witness) -> None:
        # It stays in doubt: until the reaper comes, clients that queue may be handed connections that come back.
        with self._doubting:
            self.doubt = Doubt(lasting=True)
        if conn is not None:
            dismiss(conn)
        witness.lost(self, "its role is gone from the database")

    def inquire(self) -> None:
        """
        Ask an idle session, if there is one: of the loss of a role that nobody uses no statement tells.

        One at a time: where the network swallows the question, one thread waits for its end, and not all of them.
        """
        if self._inquiring.acquire(blocking=False):
            try:
                self._ask_an_idle_one()
            finally:
                self._inquiring.release()

    def _ask_an_idle_one(self) -> None:
        pool = self.pool
        with pool._lock:
            conn = pool._pool.popleft() if pool._pool else None
        if conn is None:
            return
        conn._pool = pool
        verdict = examine(conn)
        if verdict is Verdict.DEAD and self.witness is not None:
            self._dead(conn, self.witness)
            return
        if verdict is not Verdict.ALIVE:
            conn.pgconn.finish()
        self.putconn(conn)
