"""
Sessions that are asked before they are lent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Generic

from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT

from vault_pool.errors import PoolClosed
from vault_pool.runtime.hot_swap.doubt import Doubt, Sign, Verdict, Witness, examine
from vault_pool.runtime.hot_swap.tracking import dismiss

_REQUESTS_NUM = "requests_num"


class Vouching(Generic[CT]):
    """
    What a generation does while it is doubted whether its role still exists. Without a witness it never is.

    Thread-safe: *doubt* is one reference. It is read when a connection has been obtained, so that whoever saw none
    obtained it before the reason for doubt was seen.
    """

    pool: ConnectionPool[CT]
    retired: bool
    getconn: Callable[[float | None], CT]
    putconn: Callable[[CT], None]

    def __init__(self) -> None:
        self.witness: Witness | None = None
        self.doubt: Doubt | None = None
        # The end of its lease, on the holder's clock.
        self.good_until = math.inf
        # Its lease has ended and there is no successor: open sessions are worth more than fresh ones.
        self.lapsed = False

    def connections(self) -> list[CT]:
        """
        Return the connections that are open.
        """
        raise NotImplementedError

    def suspect(self) -> None:
        """
        Have sessions asked before they are lent, until one answers: a statement failed as those of a lost role do.
        """
        if self.witness is not None and not self.retired and (self.doubt is None or not self.doubt.lasting):
            self.doubt = Doubt()

    def vouch(self, conn: CT, deadline: float) -> CT:
        """
        Return *conn*, or another one obtained until *deadline*, whose session says that its role exists.

        Raises `PoolClosed` when it says that it does not: the generation is retired then, and its clients go on.
        """
        witness = self.witness
        while witness is not None:
            doubt, verdict = self.doubt, Verdict.BROKEN
            try:
                verdict = examine(conn)
            finally:
                # Also when the client is interrupted: its place in the pool is not lost.
                if verdict is Verdict.BROKEN:
                    conn.pgconn.finish()
                    self.putconn(conn)
            if verdict is Verdict.ALIVE:
                self._cleared(doubt, witness)
                break
            if verdict is Verdict.DEAD:
                self._dead(conn, witness)
                raise PoolClosed(f"the credential of pool {self.pool.name!r} was lost")
            conn = self.getconn(deadline - monotonic())
            # The application has asked once.
            self.pool._stats[_REQUESTS_NUM] -= 1
        return conn

    def lapse(self) -> None:
        """
        Keep what is open: there will be no fresh sessions. Each is asked before it is lent, whatever it may have met.
        """
        self.lapsed = True
        self.doubt = Doubt(lasting=True)
        for conn in self.connections():
            # When they come back, psycopg_pool would replace those that are past their max_lifetime.
            conn._expire_at = math.inf

    def look_at(self, conn: CT) -> bool:
        """
        Ask the session of *conn*, which comes back after a sign; return False where it is dead, and closed.
        """
        witness, conn._suspect = self.witness, False  # type: ignore[attr-defined]  # ours
        if witness is None or self.retired:
            return True
        doubt = self.doubt
        verdict = examine(conn)
        if verdict is Verdict.DEAD:
            self._dead(conn, witness)
        elif verdict is Verdict.ALIVE:
            if doubt is not None:
                self._cleared(doubt, witness)
            witness.suspect(self, Sign.STATEMENT)
        return verdict is not Verdict.DEAD

    def _cleared(self, doubt: Doubt | None, witness: Witness) -> None:
        if doubt is None:
            witness.late(self)
        elif not doubt.lasting and self.doubt is doubt:
            # A newer reason may have come while the session answered: that one stays.
            self.doubt = None

    def _dead(self, conn: CT, witness: Witness) -> None:
        # It stays in doubt: until the reaper comes, clients that queue may be handed connections that come back.
        self.doubt = Doubt(lasting=True)
        dismiss(conn)
        witness.lost(self, "its role is gone from the database")

    def inquire(self) -> None:
        """
        Ask an idle session, if there is one: of the loss of a role that nobody uses no statement tells.
        """
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
