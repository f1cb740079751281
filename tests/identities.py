"""
Who vouches for a login in the tests: a signer of JWTs, Kubernetes' TokenReview, a directory, a certificate authority.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import secrets
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.unit.vault.fake_http import serve

_AN_HOUR = dt.timedelta(hours=1)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


# --- JWTs and Kubernetes -----------------------------------------------------------------------------------


class Issuer:
    """A key that signs JWTs."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_key = (
            self._key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    def sign(self, **claims: Any) -> str:
        """Return a JWT of *claims*, valid for an hour."""
        now = int(_now().timestamp())
        parts = [{"alg": "RS256", "typ": "JWT"}, {"iat": now, "nbf": now - 60, "exp": now + 3600, **claims}]
        text = b".".join(_base64url(json.dumps(part).encode()) for part in parts)
        signature = self._key.sign(text, padding.PKCS1v15(), hashes.SHA256())
        return (text + b"." + _base64url(signature)).decode()

    def service_account(self, name: str, namespace: str = "default") -> str:
        """Return a token as Kubernetes projects it into the pods of a service account."""
        account = {"name": name, "uid": f"uid-of-{name}"}
        return self.sign(
            iss="https://kubernetes.default.svc.cluster.local",
            aud=["https://kubernetes.default.svc.cluster.local"],
            sub=f"system:serviceaccount:{namespace}:{name}",
            jti=secrets.token_hex(4),
            **{"kubernetes.io": {"namespace": namespace, "serviceaccount": account, "pod": {"name": "p", "uid": "1"}}},
        )


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextlib.contextmanager
def token_review() -> Iterator[tuple[str, list[Any]]]:
    """Run Kubernetes' TokenReview endpoint; yield its address and the list of tokens that were reviewed."""
    reviewed: list[Any] = []

    def answer(request: Any) -> Any:
        token = request.body["spec"]["token"]
        reviewed.append(token)
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        user = {"username": claims["sub"], "uid": claims["kubernetes.io"]["serviceaccount"]["uid"]}
        user["groups"] = ["system:serviceaccounts"]
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
        status = {"authenticated": True, "user": user, "audiences": request.body["spec"].get("audiences", [])}
        return 201, {"Content-Type": "application/json"}, {**review, "status": status}

    with serve(answer) as server:
        yield server.address, reviewed


# --- Certificates ------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority, with files in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority of the tests")
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self._build(self._name, self._key.public_key(), [(constraints, True), (_usage(sign=True), True)])
        self.file = folder / f"authority-{secrets.token_hex(4)}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def pem(self) -> str:
        """Its own certificate."""
        return self.file.read_text()

    def issue(self, name: str, *, password: str | None = None) -> tuple[Path, Path]:
        """Write a certificate for *name*, as a client and as a server, and its key; return both files."""
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        extensions = [(purposes, False), (names, False), (_usage(sign=False), True)]
        certificate = self._build(_name(name), key.public_key(), extensions)
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        how = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
        return files

    def _build(self, subject: x509.Name, public_key: Any, extensions: list[tuple[Any, bool]]) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - _AN_HOUR)
            .not_valid_after(_now() + _AN_HOUR)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, sign: bool) -> x509.KeyUsage:
    others = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    return x509.KeyUsage(digital_signature=True, key_cert_sign=sign, crl_sign=sign, decipher_only=False, **others)


# --- A directory -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def directory(passwords: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """
    Run an LDAP server that knows users by *passwords*; yield its URL and the list of names that were bound.

    It says yes or no to simple binds (RFC 4511, 4.2), and finds whomever it is asked for (4.5).
    """
    bound: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (message := _element(self.rfile)) is not None:
                self.wfile.write(_answers(message, passwords, bound))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"ldap://127.0.0.1:{server.server_address[1]}", bound
        finally:
            server.shutdown()
            thread.join()


_BIND, _UNBIND, _SEARCH = 0x60, 0x42, 0x63
_INVALID_CREDENTIALS = 49


def _answers(message: bytes, passwords: dict[str, str], bound: list[str]) -> bytes:
    number, operation, *_ = _elements(message)
    kind, content = operation
    if kind == _BIND:
        _, name, password = _elements(content)
        user = name[1].decode().partition(",")[0].partition("=")[2]
        right = bool(password[1]) and passwords.get(user) == password[1].decode()
        bound.append(user)
        return _message(number, 0x61, _result(0 if right else _INVALID_CREDENTIALS))
    if kind == _SEARCH:
        base = _elements(content)[0][1].decode()
        attribute = _tlv(0x30, _tlv(0x04, b"uid") + _tlv(0x31, _tlv(0x04, b"alice")))
        entry = _tlv(0x04, base.encode()) + _tlv(0x30, attribute)
        return _message(number, 0x64, entry) + _message(number, 0x65, _result(0))
    return b""


def _result(code: int) -> bytes:
    return _tlv(0x0A, bytes([code])) + _tlv(0x04, b"") + _tlv(0x04, b"")


def _message(number: tuple[int, bytes], kind: int, content: bytes) -> bytes:
    return _tlv(0x30, _tlv(*number) + _tlv(kind, content))


def _tlv(kind: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([kind]) + length + content


def _element(stream: Any) -> bytes | None:
    head = stream.read(2)
    if len(head) < 2:
        return None
    size = head[1] if head[1] < 0x80 else int.from_bytes(stream.read(head[1] & 0x7F), "big")
    return bytes(stream.read(size))


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        kind, size, at = data[at], data[at + 1], at + 2
        if size >= 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(data[at : at + count], "big"), at + count
        found.append((kind, data[at : at + size]))
        at += size
    return found
