"""
A fake Vault over real HTTP, and a runtime whose time a test moves.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.unit.vault.fake_http import serve
from tests.unit.vault.fake_runtime import FakeRuntime
from tests.unit.vault.fake_vault import FakeVault
from vault_pool.sources.dynamic_role import DynamicRole
from vault_pool.vault.auth import AppRole, Token
from vault_pool.vault.client import Vault


class World:
    """A fake Vault, a source that reads from it, and the time of both."""

    def __init__(self, fake, http, runtime, auth):
        self.fake, self.http, self.runtime = fake, http, runtime
        self.vault = Vault(http.address, auth=auth, timeout=2)
        self.vault._clock = runtime.clock.now
        self.role = DynamicRole("app", vault=self.vault)
        self.woken = 0

    @property
    def keeper(self):
        return self.vault._keeper

    def wake(self):
        self.woken += 1

    def read(self):
        return self.role.read(self.runtime.clock.now())

    def attach(self):
        self.role.attach(self.runtime, self.wake)

    def count(self, path):
        """How many requests ended in *path*."""
        return sum(request.path.endswith(path) for request in self.http.seen)


@pytest.fixture
def world():
    """`world(given={...} or None, **settings)` is a World logged in by AppRole, or by a token that was given."""
    with contextlib.ExitStack() as stack:

        def make(*, given=None, auth=None, **settings):
            runtime = FakeRuntime()
            fake = FakeVault(runtime.clock.now, **settings)
            http = stack.enter_context(serve(fake))
            if given is not None:
                auth = Token(fake.make_token(**given))
            made = World(fake, http, runtime, auth or AppRole("the-role-id", "the-secret-id"))
            stack.callback(made.vault._keeper._transport.close)
            return made

        yield make
