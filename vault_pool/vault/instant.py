"""
Vault's way to write an instant.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


def instant(text: object) -> float | None:
    """
    Return *text* (RFC 3339 with nanoseconds, in the server's zone) as seconds since 1970, None where it is none.

    Python 3.10 reads neither "Z" nor nanoseconds.
    """
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    whole, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(whole + zone.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.astimezone(timezone.utc).timestamp() + float(fraction or 0)
