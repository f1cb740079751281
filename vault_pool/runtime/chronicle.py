"""
What is said of the life of a lease: the log, and the application's events.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable

from vault_pool import events
from vault_pool.core.lease import Lease
from vault_pool.errors import fold
from vault_pool.sources.base import Issued

logger = logging.getLogger("vault_pool.watcher")


class Chronicle:
    """
    One INFO line a rotation, one WARNING where a trouble begins and one line where it ends; an event for each fact.

    Thread-safe: ``_lock`` guards since when there is trouble, and how many failures it has had.
    """

    def __init__(self, source: str, clock: Callable[[], float], tell: Callable[[events.Event], None]) -> None:
        self._source = source
        self._now = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._trouble_since: float | None = None
        self._failures = 0

    def rotated(self, issued: Issued, generation: int) -> None:
        """
        Tell that *generation* serves by *issued*.
        """
        lease, seconds = issued.lease, self._now() - issued.lease.issued_at
        user = issued.credential.user
        logger.info(
            "%s: generation %d serves as %s%s (%s %s), ready in %.2f s",
            self._source,
            generation,
            user,
            "" if lease.polled else f" for {lease.duration:.0f} s",
            "version" if lease.polled else "lease",
            lease.lease_id,
            seconds,
        )
        self._tell(
            events.PoolReplaced(
                source=self._source,
                generation=generation,
                user=user,
                lease_id=lease.lease_id,
                duration=lease.duration,
                seconds=seconds,
            )
        )

    def renewed(self, lease: Lease, renewed: Lease) -> None:
        """
        Tell that *lease* became *renewed*.
        """
        self._tell(
            events.LeaseRenewed(
                source=self._source,
                lease_id=lease.lease_id,
                duration=renewed.duration,
                truncated=lease.truncated_by(renewed.duration),
            )
        )

    def failed(self, error: Exception, lease: Lease | None, rest: float) -> None:
        """
        Tell that *lease* was not renewed, or (None) that no successor was had.

        *rest* is for how many seconds the credential in force is good, 0 where there is none.
        """
        failures = self._count_failure()
        serves = "the credential serves on" if rest > 0 else "no credential is in force"
        if 0 < rest < math.inf:
            serves += f" for {rest:.0f} s"
        level = logging.WARNING if failures == 1 else logging.DEBUG
        logger.log(level, "%s: %s; trying again, %s", self._source, fold(error), serves)
        if lease is None:
            self._tell(events.RotationFailed(source=self._source, error=fold(error), attempt=failures))
        else:
            self._tell(events.RenewalFailed(source=self._source, lease_id=lease.lease_id, error=fold(error)))

    def lost(self, lease: Lease, reason: str) -> None:
        """
        Tell that *lease* ended before its time.
        """
        self._count_failure()
        logger.warning("%s: lease %s is lost (%s); rotating", self._source, lease.lease_id, fold(reason))
        self._tell(events.LeaseLost(source=self._source, lease_id=lease.lease_id, reason=fold(reason)))

    def lapsed(self, lease_id: str) -> None:
        """
        Tell that a lease ended without a successor.
        """
        logger.warning("%s: lease %s ended without a successor", self._source, lease_id)
        self._tell(events.LeaseLapsed(source=self._source, lease_id=lease_id))

    def well(self) -> bool:
        """
        Tell that things work; return whether that is news.
        """
        with self._lock:
            since, self._trouble_since = self._trouble_since, None
            failures, self._failures = self._failures, 0
        if since is not None:
            seconds = self._now() - since
            logger.info("%s: well again after %.1f s and %d failure(s)", self._source, seconds, failures)
        return since is not None

    def _count_failure(self) -> int:
        with self._lock:
            if self._trouble_since is None:
                self._trouble_since = self._now()
            self._failures += 1
            return self._failures
