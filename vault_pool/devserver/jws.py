"""
JSON Web Tokens: are they signed by a known key, and do their claims hold?

vault: ``hashicorp/cap``, ``jwt/jwt.go`` and ``jwt/keyset.go``; every refusal is a ValueError with its text.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.x509 import load_pem_x509_certificate

PublicKey: TypeAlias = "rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey"

_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
ALGORITHMS: Final = (*(kind + size for kind in ("RS", "PS", "ES") for size in _HASHES), "EdDSA")
_LEEWAY: Final = 150.0
_SKEW: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """
    What claims are compared with; empty: not at all. Leeways in seconds, 0 = the default.
    """

    issuer: str = ""
    subject: str = ""
    audiences: Sequence[str] = ()
    algorithms: Sequence[str] = ALGORITHMS
    expiration_leeway: float = 0.0
    not_before_leeway: float = 0.0
    clock_skew_leeway: float = 0.0


def load_key(pem: str) -> PublicKey:
    """
    Return the public key of a PEM block, or of a certificate; raise ValueError.
    """
    try:
        of_certificate = "BEGIN CERTIFICATE" in pem
        key: object = (
            load_pem_x509_certificate(pem.encode()).public_key()
            if of_certificate
            else serialization.load_pem_public_key(pem.encode())
        )
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("data does not contain any valid public keys") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise ValueError("data does not contain any valid public keys")  # noqa: TRY004 - a value of the wrong form
    return key


def verified(token: str, keys: Sequence[PublicKey] | None) -> tuple[str, dict[str, Any]]:
    """
    Return the algorithm and the claims of *token*, which one of *keys* signed; None: whoever signed it.
    """
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("go-jose/go-jose: compact JWS format must have three parts")
    try:
        header, claims, signature = (_decoded(part) for part in parts)
        algorithm, parsed = str(json.loads(header)["alg"]), json.loads(claims)
    except (ValueError, KeyError, TypeError):
        raise ValueError("go-jose/go-jose: unsupported or malformed token") from None
    signed = f"{parts[0]}.{parts[1]}".encode()
    if keys is not None and not any(_is_signed_by(key, algorithm, signature, signed) for key in keys):
        raise ValueError("no known key successfully validated the token signature")
    if not isinstance(parsed, dict):
        raise ValueError("go-jose/go-jose: unsupported or malformed token")  # noqa: TRY004 - a value of the wrong form
    return algorithm, parsed


def validate(
    token: str, keys: Sequence[PublicKey] | None, expected: Expected, now: float, *, undated: bool = False
) -> dict[str, Any]:
    """
    Return the claims of *token* if they are as expected at the instant *now*; *undated*: it may have no times.
    """
    try:
        algorithm, claims = verified(token, keys)
    except ValueError as error:
        raise ValueError(f"error verifying token signature: {error}") from None
    if algorithm not in expected.algorithms:
        raise ValueError("invalid algorithm (alg) header parameter: token signed with unexpected algorithm")
    if expected.issuer and claims.get("iss") != expected.issuer:
        raise ValueError("invalid issuer (iss) claim")
    if expected.subject and claims.get("sub") != expected.subject:
        raise ValueError("invalid subject (sub) claim")
    if expected.audiences and not set(expected.audiences) & set(audiences(claims)):
        text = "audience claim does not match any expected audience"
        raise ValueError(f"invalid audience (aud) claim: {text}")
    _check_times(claims, expected, now, undated=undated)
    return claims


def audiences(claims: Mapping[str, Any]) -> list[str]:
    """
    Return the audiences, of which one may stand alone.
    """
    found = claims.get("aud", [])
    return [str(one) for one in (found if isinstance(found, list) else [found])]


def _check_times(claims: Mapping[str, Any], expected: Expected, now: float, *, undated: bool) -> None:
    issued, expiry, before = (_number(claims, name) for name in ("iat", "exp", "nbf"))
    if not (issued or expiry or before):
        if undated:
            return
        raise ValueError("no issued at (iat), not before (nbf), or expiration time (exp) claims in token")
    expiry = expiry or max(issued, before) + _leeway(expected.expiration_leeway, _LEEWAY)
    before = before or issued or expiry - _leeway(expected.not_before_leeway, _LEEWAY)
    skew = _leeway(expected.clock_skew_leeway, _SKEW)
    if now + skew < before:
        raise ValueError("invalid not before (nbf) claim: token not yet valid")
    if now - skew > expiry:
        raise ValueError("invalid expiration time (exp) claim: token is expired")
    if now + skew < issued:
        raise ValueError("invalid issued at (iat) claim: token issued in the future")


def _number(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"invalid {name} claim")  # noqa: TRY004 - a value of the wrong form
    return float(value)


def _leeway(wanted: float, default: float) -> float:
    return max(0.0, wanted or default)


def _decoded(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _is_signed_by(key: PublicKey, algorithm: str, signature: bytes, signed: bytes) -> bool:
    kind, size = algorithm[:2], algorithm[2:]
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            if algorithm != "EdDSA":
                return False
            key.verify(signature, signed)
        elif isinstance(key, rsa.RSAPublicKey):
            pad = {"RS": padding.PKCS1v15(), "PS": padding.PSS(padding.MGF1(_HASHES[size]), padding.PSS.DIGEST_LENGTH)}
            key.verify(signature, signed, pad[kind], _HASHES[size])
        else:
            half = len(signature) // 2
            numbers = (int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
            if kind != "ES":
                return False
            key.verify(utils.encode_dss_signature(*numbers), signed, ec.ECDSA(_HASHES[size]))
    except (InvalidSignature, KeyError, ValueError):
        return False
    return True
