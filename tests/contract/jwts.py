"""
The JSON Web Tokens of the scenario `jwt`: the recordings have only their names.
"""

from __future__ import annotations

import functools
import time

from tests.identities import Issuer


@functools.cache
def tokens_of_jwt() -> dict[str, str]:
    """Return what to send for each placeholder: a token that is good, one expired, one for others, one forged."""
    issuer = Issuer()
    now = int(time.time())
    good = {"iss": "me", "sub": "someone", "aud": "vault", "team": "a"}
    signed = issuer.sign(**good)
    head, claims, signature = signed.split(".")
    forged = signature[:-8] + ("AAAAAAAA" if not signature.endswith("AAAAAAAA") else "BBBBBBBB")
    return {
        "<public key, PEM>": issuer.public_key,
        "<jwt:1>": signed,
        "<jwt:2>": issuer.sign(**good | {"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}),
        "<jwt:3>": issuer.sign(**good | {"aud": "others"}),
        "<jwt with a broken signature>": f"{head}.{claims}.{forged}",
    }
