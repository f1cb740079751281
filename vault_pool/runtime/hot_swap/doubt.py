"""
Whether a session still belongs to a role that exists.

PostgreSQL does nothing to the open sessions of a role that is dropped: they go on, and fail at the first table. Asked
for its own name, such a session answers 42704 (measured on 15 to 18); one whose role merely lacks a grant does not.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any, Protocol

from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, TransactionStatus

#: The pause between two inquiries of one kind, in seconds: it doubles with each that found nothing …
PAUSE = 1.0
#: … up to this; as long a time without any, and it starts over.
LONGEST_PAUSE = 300.0
#: For how long, in seconds, sessions that are well are asked again: Vault's default revocation takes the rights of a
#: role away some milliseconds before it drops the role. Ordinary errors look the same: it is as rare as inquiries are.
WAIT = 0.1

_SIGNS = frozenset({"42501", "42704"})  # insufficient_privilege, undefined_object
_AUTHORIZATION = "28"  # the class of invalid_authorization_specification
_ROLE_IS_GONE = b"42704"
# Not current_user: a session that has assumed another role keeps that name whatever becomes of its own.
_QUESTION = b"SELECT session_user"


class Sign(enum.Enum):
    """
    What makes one doubt a credential, and that no session has confirmed.

    An *insistent* one wants a successor in any case: the credential may be in force, but it is of no use.
    """

    STATEMENT = "a statement failed"
    REFUSAL = "a login was refused"
    REFUSALS = "logins are refused"
    REPORT = "the application says so"

    @property
    def insistent(self) -> bool:
        """
        Whether a successor is wanted even where the lease is in force.
        """
        return self in (Sign.REFUSALS, Sign.REPORT)


class Verdict(enum.Enum):
    """
    What a session said of itself.
    """

    ALIVE = "alive"
    DEAD = "dead"  # its role was dropped
    BROKEN = "broken"  # it said nothing


@dataclass(frozen=True, slots=True)
class Restraint:
    """
    When the next inquiry may follow: the more were in vain, the later. A value; *now* is passed in.
    """

    next_at: float = -math.inf
    in_vain: int = 0

    def allows(self, now: float) -> bool:
        """
        Tell whether an inquiry may be made.
        """
        return now >= self.next_at

    def asked(self, now: float) -> Restraint:
        """
        Return the restraint after an inquiry at *now*.
        """
        in_vain = 0 if now >= self.next_at + LONGEST_PAUSE else self.in_vain
        pause = min(LONGEST_PAUSE, PAUSE * 2.0**in_vain)
        # Not counted for ever: after some days the power would be no float any more.
        return Restraint(now + pause, in_vain + 1 if pause < LONGEST_PAUSE else in_vain)


class Doubt:
    """
    A reason to ask a session before it is lent; the answer that it is well, to a question from *until* on, ends it.

    Until then nobody is lent a session, unless one says that the role is gone. A *lasting* doubt has no end, and
    sessions that are well are lent: the lease has ended, and Vault may drop the role at any moment.
    """

    __slots__ = ("lasting", "until")

    def __init__(self, until: float = -math.inf, *, lasting: bool = False) -> None:
        self.until = until
        self.lasting = lasting

    def ends_by(self, asked_at: float) -> bool:
        """
        Tell whether the answer of a session that is well, asked at that instant, ends it.
        """
        return not self.lasting and asked_at >= self.until


class Witness(Protocol):
    """
    Who hears what the connections of a generation have seen. Called from any thread, with no lock held.
    """

    def suspect(self, generation: Any, sign: Sign) -> None:
        """
        Take note of a sign that no session has confirmed.
        """

    def lost(self, generation: Any, reason: str) -> None:
        """
        Take note that the role of *generation* is gone: its sessions are worth nothing any more.
        """

    def late(self, generation: Any) -> None:
        """
        Take note that *generation* is lent beyond the end of its lease, which somebody should have noticed.
        """


def is_sign(sqlstate: str | None) -> bool:
    """
    Tell whether a statement that failed with *sqlstate* may have failed because its role is gone.
    """
    return sqlstate is not None and (sqlstate in _SIGNS or sqlstate.startswith(_AUTHORIZATION))


def examine(conn: Any) -> Verdict:
    """
    Ask the session of *conn*, which nobody else uses, for the name of its role. One round trip.

    What is left of a failed transaction is rolled back before. It is libpq's own call, below psycopg: no transaction
    is begun, and the answer is no signal.
    """
    pgconn = conn.pgconn
    if pgconn.status == ConnStatus.BAD:
        return Verdict.BROKEN
    if pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        pgconn.exec_(b"ROLLBACK")
    if pgconn.transaction_status != TransactionStatus.IDLE:
        return Verdict.BROKEN
    result = pgconn.exec_(_QUESTION)
    if result.status == ExecStatus.TUPLES_OK:
        return Verdict.ALIVE
    gone = result.error_field(DiagnosticField.SQLSTATE) == _ROLE_IS_GONE
    return Verdict.DEAD if gone else Verdict.BROKEN
