"""
Passwords: how they are made up, and what PostgreSQL stores of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import string
from dataclasses import dataclass
from typing import Final

from vault_pool.devserver.errors import refused
from vault_pool.devserver.hcl import HclError, parse

_ITERATIONS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordPolicy:
    """
    A length, and character sets of which a password has at least so many characters each.
    """

    length: int
    rules: tuple[tuple[str, int], ...]

    def generate(self) -> str:
        """
        Return a random password.
        """
        pool = "".join(sorted({character for charset, _ in self.rules for character in charset}))
        while True:
            password = "".join(secrets.choice(pool) for _ in range(self.length))
            if all(sum(one in charset for one in password) >= least for charset, least in self.rules):
                return password


# vault: ``DefaultStringGenerator``.
DEFAULT: Final = PasswordPolicy(
    length=20, rules=((string.ascii_lowercase, 1), (string.ascii_uppercase, 1), (string.digits, 1), ("-", 1))
)


def parse_password_policy(text: str) -> PasswordPolicy:
    """
    Return the policy written as HCL *text*.
    """
    try:
        top = parse(text)
        rules = tuple((block.attributes["charset"], int(block.attributes.get("min-chars", 0))) for block in top.blocks)
        length = int(top.attributes["length"])
    except (HclError, KeyError) as error:
        raise refused(f"invalid password policy: {error}") from None
    if not rules or length < max(1, sum(least for _, least in rules)):
        raise refused("invalid password policy: no password satisfies it")
    return PasswordPolicy(length=length, rules=rules)


def scram_verifier(password: str) -> str:
    """
    Return what PostgreSQL stores for *password* under SCRAM-SHA-256 (RFC 5802).
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    shown = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{shown[0]}${shown[1]}:{shown[2]}"
