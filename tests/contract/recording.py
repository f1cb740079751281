"""
Recorded exchanges with real servers: one JSON object a line, grouped into scenarios.

Random values stand as placeholders, `<kind:n>`; `matching.py` knows what they mean.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

RECORDINGS = Path(__file__).with_name("recordings")

# What the development server imitates, in the order of the recordings.
IMITATED = (
    "dynamic",
    "dynamic_numuses",
    "renew_equal",
    "renew_requests",
    "leases",
    "revocation",
    "expiry_sessions",
    "token_life",
    "token_truncation",
    "approle",
    "wrapping",
    "config",
    "db_down_token",
    "policies",
    "health",
    "routing",
    "static_roles",
    "kv",
    "userpass",
    "jwt",
    "approle_lockout",
    "revocation_custom",
    "quota",
    "bad_input",
)
# In these the real clock matters to the threads of the server, not only to its arithmetic.
TIMED = (
    "dynamic_numuses",
    "renew_equal",
    "leases",
    "revocation",
    "expiry_sessions",
    "token_life",
    "token_truncation",
    "db_down_token",
)
# They need a second node, raft, another time zone, or an engine that is not imitated.
OUT_OF_REACH = ("standby", "uninitialised", "timezone", "cubby")


class Scenario(NamedTuple):
    """The lines of one scenario, in order, of a server of *flavor* ("openbao" or "vault")."""

    name: str
    flavor: str
    lines: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"{self.flavor}-{self.name}"


def recordings() -> list[Path]:
    """Return the files that lie beside this module."""
    return sorted(RECORDINGS.glob("*.jsonl.gz"))


def load(path: Path, flavor: str | None = None) -> list[Scenario]:
    """Return the scenarios of a file, `.jsonl` or `.jsonl.gz`; *flavor* None: as its name or its content tells."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    lines = [json.loads(line) for line in text.split("\n") if line.strip()]
    flavor = flavor or _flavor(path.name, lines)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        grouped.setdefault(line["scenario"], []).append(line)
    return [
        Scenario(name, flavor, sorted(group, key=lambda line: line["seq"])) for name, group in grouped.items() if group
    ]


def choose(scenarios: Iterable[Scenario], names: Iterable[str]) -> list[Scenario]:
    """Return those called one of *names*."""
    wanted = set(names)
    return [scenario for scenario in scenarios if scenario.name in wanted]


def _flavor(name: str, lines: list[dict[str, Any]]) -> str:
    for flavor, word in (("openbao", "bao"), ("vault", "vault")):
        if word in name.lower():
            return flavor
    # Only OpenBao's plugin pings with a comment; only Vault's tokens begin with hvs.
    text = json.dumps(lines)
    for flavor, trace in (("openbao", '"-- ping"'), ("openbao", '"s. + '), ("vault", '";"'), ("vault", '"hvs. + ')):
        if trace in text:
            return flavor
    raise ValueError(f"{name} does not tell which server it is of: say so with --flavor")


def whole_body(text: str) -> bytes:
    """Return the raw body that was sent: long ones are recorded by their beginning and their size."""
    cut = re.fullmatch(r"(.+)\.\.\. \((\d+) bytes\)", text, re.DOTALL)
    if cut is None:
        # One character a byte: not every body that was sent is UTF-8.
        return text.encode("latin-1") if all(ord(one) < 256 for one in text) else text.encode()
    size = int(cut[2])
    if cut[1].startswith('{"a":{"a":'):
        depth = (size - 1) // 6
        return b'{"a":' * depth + b"1" + b"}" * depth
    head = cut[1].rstrip(cut[1][-1])
    return (head + cut[1][-1] * (size - len(head) - 2) + '"}').encode()
