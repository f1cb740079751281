"""
Just enough of Vault's tokens and leases to let a token's whole life pass in a moment.

What real servers do is tested in tests/integration.
"""

from __future__ import annotations

import itertools

DENIED = (403, {}, {"errors": ["permission denied"]})
BY_POLICY = (403, {}, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]})


class FakeToken:
    def __init__(self, issued, ttl, max_ttl, uses, renewable):
        self.issued, self.ttl, self.max_ttl, self.uses, self.renewable = issued, ttl, max_ttl, uses, renewable
        self.ends = issued + min(ttl, max_ttl)
        self.revoked = False


class FakeVault:
    """
    The answers of a Vault on the clock *now*: `__call__` is what `fake_http.serve` wants.

    `refuse_logins`: how logins are refused. `before`: called with each request, may return an answer instead.
    """

    def __init__(self, now, *, ttl=60, max_ttl=3600, uses=0, renewable=True, lease=3600):
        self.now, self.ttl, self.max_ttl, self.uses = now, ttl, max_ttl, uses
        self.renewable, self.lease = renewable, lease
        self.lease_renewable = True
        self.lease_ends = {}
        self.tokens, self.leases = {}, {}
        self.logins = []
        self.refuse_logins = None
        self.before = lambda request: None
        self._numbers = itertools.count(1)

    @property
    def living_leases(self):
        """The leases that are neither revoked nor lost with their token."""
        return [lease for lease, token in self.leases.items() if self.alive(token)]

    def alive(self, token):
        known = self.tokens.get(token)
        return known is not None and not known.revoked and self.now() < known.ends

    def make_token(self, **more):
        settings = {"ttl": self.ttl, "max_ttl": self.max_ttl, "uses": self.uses, "renewable": self.renewable, **more}
        token = f"hvs.token-{next(self._numbers)}"
        self.tokens[token] = FakeToken(self.now(), **settings)
        return token

    def __call__(self, request):
        given = self.before(request)
        if given is not None:
            return given
        if request.path.endswith("/login"):
            return self._login()
        token = request.headers.get("X-Vault-Token", "")
        if not self.alive(token):
            return DENIED
        known = self.tokens[token]
        if known.uses:
            known.uses -= 1
            known.revoked = known.uses == 0
        return getattr(
            self, "_" + request.path.split("/")[-1 if request.path.startswith(("auth", "sys")) else 1].replace("-", "_")
        )(request, token, known)

    def _login(self):
        self.logins.append(self.now())
        if self.refuse_logins:
            return self.refuse_logins
        token = self.make_token()
        return 200, {}, {"auth": self._auth(token, self.tokens[token])}

    def _auth(self, token, known):
        return {
            "client_token": token,
            "lease_duration": int(known.ends - self.now()),
            "renewable": known.renewable,
            "num_uses": known.uses,
            "token_type": "service",
        }

    def _lookup_self(self, request, token, known):
        left = int(known.ends - self.now())
        data = {"ttl": left, "expire_time": "2026-01-01T00:00:00Z", "creation_ttl": known.ttl}
        return 200, {}, {"data": {**data, "renewable": known.renewable, "num_uses": known.uses, "type": "service"}}

    def _renew_self(self, request, token, known):
        known.ends = min(self.now() + request.body["increment"], known.issued + known.max_ttl)
        return 200, {}, {"auth": self._auth(token, known)}

    def _revoke_self(self, request, token, known):
        known.revoked = True
        return 204, {}, ""

    def _creds(self, request, token, known):
        if known.revoked:
            text = "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked."
            return 400, {}, {"errors": [text]}
        lease = f"{request.path}/{next(self._numbers)}"
        self.leases[lease] = token
        self.lease_ends[lease] = self.now() + self.lease
        data = {"username": f"v-{lease[-1]}", "password": "p4ss-of-the-fake"}
        terms = {"lease_id": lease, "lease_duration": self.lease, "renewable": self.lease_renewable}
        return 200, {}, {**terms, "data": data}

    def _renew(self, request, token, known):
        lease = request.body["lease_id"]
        if lease not in self.living_leases:
            return 400, {}, {"errors": ["lease not found"]}
        self.lease_ends[lease] = self.now() + request.body["increment"]
        return (
            200,
            {},
            {"lease_id": lease, "lease_duration": request.body["increment"], "renewable": True, "data": None},
        )

    def _lookup(self, request, token, known):
        lease = request.body["lease_id"]
        if lease not in self.living_leases:
            return 400, {}, {"errors": ["invalid lease"]}
        return 200, {}, {"data": {"id": lease, "ttl": int(self.lease_ends[lease] - self.now()), "renewable": True}}

    def _revoke(self, request, token, known):
        self.leases.pop(request.body["lease_id"], None)
        return 204, {}, ""
