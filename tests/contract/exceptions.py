"""
The differences that are known, each with its reason; there are to be at most five.
"""

from __future__ import annotations

# From (flavor, id of the line) to the reason.
_END_OF_TOKEN = (
    "the recordings' README, 5: a race in the real servers. The renewal comes in the millisecond in which max_ttl ends:"
    " seen are 400 `token not found`, 400 `lease expired`, 500 `past the max TTL`, and 403 once the token is gone"
)

KNOWN: dict[tuple[str, str], str] = {
    ("openbao", "token_truncation.renew_at_8s"): _END_OF_TOKEN,
    ("vault", "token_truncation.renew_at_8s"): _END_OF_TOKEN,
}
