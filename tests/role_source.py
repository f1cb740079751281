"""
A source of credentials without a Vault: real roles in a real database.
"""

from __future__ import annotations

from collections import Counter

import psycopg

from vault_pool.core.lease import Credential, Lease, Owner
from vault_pool.errors import VaultUnavailable
from vault_pool.sources.base import Issued


class RoleSource:
    """
    A source that creates a role for each read, and drops it as Vault's default revocation does.

    `requests` counts what was asked; `fault` is raised by the requests of the kinds named in `faulty`.
    """

    name = "roles"
    lane = "roles"

    def __init__(self, database, duration=3600.0):
        self.database = database
        self.duration = duration
        self.live = {}
        self.dropped = []
        self.requests = Counter()
        self.fault, self.faulty = None, set()

    def _ask(self, kind):
        self.requests[kind] += 1
        if kind in self.faulty:
            raise self.fault

    def read(self, now):
        self._ask("read")
        login = self.database.create_login()
        self.live[login.user] = login
        return Issued(credential=Credential(*login), lease=Lease.issued(login.user, self.duration, now))

    def renew(self, lease, now):
        self._ask("renew")
        return lease.renewed(lease.increment, now)

    def lookup(self, lease):
        self._ask("lookup")
        return lease.lease_id in self.live

    def revoke(self, lease):
        self._ask("revoke")
        try:
            self.database.drop_role(lease.lease_id)
        except psycopg.Error as error:
            raise VaultUnavailable(str(error)) from None
        self.live.pop(lease.lease_id, None)
        self.dropped.append(lease.lease_id)

    def take(self, user):
        """Drop *user* without a word to anybody."""
        self.database.drop_role(user)
        self.live.pop(user, None)

    def owner(self, lease):
        return Owner()

    def attach(self, runtime, wake):
        pass

    def detach(self, wake):
        pass
