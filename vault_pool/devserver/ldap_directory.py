"""
Directories: who may log in by LDAP. One is held in memory; others are asked over the network.

A network directory is asked for a simple bind (RFC 4511, 4.2) as `<userattr>=<name>,<userdn>`; its groups are not.
"""

from __future__ import annotations

import hmac
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urlsplit

from vault_pool.devserver.errors import BackendError

_TIMEOUT: Final = 10.0
_BIND, _BOUND, _UNBIND = 0x60, 0x61, 0x42


class Directory(Protocol):
    """
    Knows people by their names and passwords.
    """

    def groups(self, name: str, password: str) -> Sequence[str] | None:
        """
        Return the groups of *name*; None if *password* is wrong. Raise BackendError if it cannot be asked.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class _Person:
    password: str = field(repr=False)
    groups: Sequence[str]


class MemoryDirectory:
    """
    A directory in memory, filled by tests. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._people: dict[str, _Person] = {}

    def add(self, name: str, password: str, groups: Sequence[str] = ()) -> None:
        """
        Let *name* log in with *password*, as a member of *groups*; again: changes both.
        """
        with self._lock:
            self._people[name.lower()] = _Person(password=password, groups=tuple(groups))

    def remove(self, name: str) -> None:
        """
        Let *name* log in no more.
        """
        with self._lock:
            self._people.pop(name.lower(), None)

    def groups(self, name: str, password: str) -> Sequence[str] | None:
        """
        Return the groups of *name*; None if *password* is wrong.
        """
        with self._lock:
            person = self._people.get(name.lower())
        known = person is not None and hmac.compare_digest(person.password.encode(), password.encode())
        return person.groups if person is not None and known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDirectory:
    """
    The first of *urls* (``ldap://`` or ``ldaps://``) that answers; *trust* is a PEM text, or empty.
    """

    urls: Sequence[str]
    userattr: str
    userdn: str
    trust: str = ""
    insecure: bool = False

    def groups(self, name: str, password: str) -> Sequence[str] | None:
        """
        Return no groups for *name*; None if the directory refuses to bind with *password*.
        """
        distinguished = f"{self.userattr}={_escaped(name)},{self.userdn}"
        errors = []
        for url in self.urls:
            bound, reason = self._try(url, distinguished, password)
            if not reason:
                return () if bound else None
            errors.append(reason)
        many = f"{len(errors)} error{'s' * (len(errors) != 1)} occurred:\n"
        raise BackendError(many + "".join(f"\t* {one}\n" for one in errors) + "\n")

    def _try(self, url: str, name: str, password: str) -> tuple[bool, str]:
        """
        Tell whether the directory at *url* let *name* bind, or why it could not be asked.
        """
        try:
            with self._connect(url) as connection:
                return _bind(connection, name, password), ""
        except (OSError, ValueError) as error:
            return False, _reason(url, error)

    def _connect(self, url: str) -> socket.socket:
        place = urlsplit(url)
        if place.scheme not in ("ldap", "ldaps"):
            raise ValueError("invalid LDAP scheme")
        secure = place.scheme == "ldaps"
        address = (place.hostname or "127.0.0.1", place.port or (636 if secure else 389))
        connection = socket.create_connection(address, timeout=_TIMEOUT)
        if not secure:
            return connection
        context = ssl.create_default_context(cadata=self.trust or None)
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(connection, server_hostname=place.hostname)


def _reason(url: str, error: Exception) -> str:
    place = urlsplit(url)
    refused = isinstance(error, ConnectionRefusedError)
    said = f"dial tcp {place.netloc}: connect: connection refused" if refused else str(error)
    return f'error connecting to host "{url}": LDAP Result Code 200 "Network Error": {said}'


def _escaped(name: str) -> str:
    """
    Return *name* as a value in a distinguished name: RFC 4514, 2.4.
    """
    return "".join(f"\\{one}" if one in ',+"\\<>;=#' else one for one in name)


def _bind(connection: socket.socket, name: str, password: str) -> bool:
    """
    Bind, and tell whether that was accepted.
    """
    operation = _element(0x02, b"\x03") + _element(0x04, name.encode()) + _element(0x80, password.encode())
    connection.sendall(_element(0x30, _element(0x02, b"\x01") + _element(_BIND, operation)))
    with connection.makefile("rb") as stream:
        head = stream.read(2)
        size = head[1] if len(head) > 1 else 0
        if size >= 0x80:
            size = int.from_bytes(stream.read(size & 0x7F), "big")
        _, (kind, content), *_ = _elements(stream.read(size))
    if kind != _BOUND:
        raise ValueError("the directory answered something else than a bind")
    connection.sendall(_element(0x30, _element(0x02, b"\x02") + _element(_UNBIND, b"")))
    return next(_elements(content))[1] == b"\x00"


def _element(kind: int, content: bytes) -> bytes:
    """
    Return one element in BER.
    """
    size = len(content)
    length = bytes([size]) if size < 0x80 else b"\x84" + size.to_bytes(4, "big")
    return bytes([kind]) + length + content


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """
    Yield the elements in *data*, each with its kind.
    """
    at = 0
    while at + 1 < len(data):
        kind, size, at = data[at], data[at + 1], at + 2
        if size >= 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(data[at : at + count], "big"), at + count
        yield kind, data[at : at + size]
        at += size
