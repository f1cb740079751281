"""
What happened: frozen, in the past tense, free of secrets.

*source* is the name of the source of credentials, *lease_id* Vault's name of a lease, durations are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    The base of all events.
    """

    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRenewed(Event):
    """
    The lease has *duration* seconds again; *truncated* tells that it has met max_ttl.
    """

    lease_id: str
    duration: float
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReplaced(Event):
    """
    A new generation serves; *seconds* is the time from the read of its credential to the swap.
    """

    generation: int
    user: str
    lease_id: str
    duration: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationFailed(Event):
    """
    No successor could be had; *attempt* counts the failures in a row.
    """

    error: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalFailed(Event):
    """
    The lease could not be renewed this time.
    """

    lease_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost(Event):
    """
    The lease ended before its time: its generation was retired at once.
    """

    lease_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLapsed(Event):
    """
    The lease ended without a successor; *on_lapse* says of each pool what becomes of its open sessions.
    """

    lease_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRetired(Event):
    """
    The last connection of a generation was closed, *seconds* after it was replaced.
    """

    generation: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRevoked(Event):
    """
    Vault ended a lease that was no longer needed.
    """

    lease_id: str
