"""
The sockets: cheroot in front of `Front`.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from cheroot import wsgi
from cheroot.ssl.builtin import BuiltinSSLAdapter
from werkzeug.wrappers import Request, Response

from vault_pool.devserver.errors import ConnectionDropped
from vault_pool.devserver.exchange import HttpRequest, HttpResponse
from vault_pool.devserver.front import MAX_BODY, Front
from vault_pool.devserver.tls import ThrowawayCertificate

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_THREADS: Final = 32
_CHUNK: Final = 1 << 16


class _QuietServer(wsgi.Server):
    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """
        Log nothing: a trace may hold a request, and most are of clients that went away.
        """


class WebServer:
    """
    An HTTP/1.1 server with keep-alive, from construction until `close()`. No access log.
    """

    def __init__(self, front: Front, host: str, port: int, certificate: ThrowawayCertificate | None) -> None:
        self._server = _QuietServer((host, port), application(front), numthreads=_THREADS, shutdown_timeout=5)
        if certificate is not None:
            self._server.ssl_adapter = BuiltinSSLAdapter(certificate.certificate_file, certificate.key_file)
        self._context = None if certificate is None else self._server.ssl_adapter.context
        self._server.prepare()
        self.port: int = self._server.bind_addr[1]
        self._thread = threading.Thread(target=self._server.serve, name="devserver-http", daemon=True)
        self._thread.start()

    def trust_clients(self, authority: str) -> None:
        """
        Ask clients for a certificate, and accept those of *authority*, a PEM text; without TLS nothing is asked.
        """
        if self._context is not None:
            self._context.load_verify_locations(cadata=authority)
            # A client's own certificate may be what is trusted, instead of its authority's.
            self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            self._context.verify_mode = ssl.CERT_OPTIONAL

    def close(self) -> None:
        """
        Answer nobody any more; return when all threads have ended.
        """
        self._server.stop()
        self._thread.join()


def application(front: Front) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """
    Return *front* as a WSGI application.
    """

    @Request.application
    def serve(request: Request) -> Response:
        answer = front.handle(
            HttpRequest(
                method=request.method,
                target=_target(request),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=_body(request),
                remote_address=request.remote_addr or "",
                certificate=_certificate(request),
            )
        )
        response = Response(_chunks(answer), status=answer.status, headers=answer.headers)
        response.content_length = len(answer.payload())
        if not answer.headers.get("Content-Type"):
            del response.headers["Content-Type"]
        if answer.status == 413:
            response.headers["Connection"] = "close"
        return response

    return serve


def _chunks(answer: HttpResponse) -> Iterator[bytes]:
    """
    Yield the body. cheroot closes the connection, without a word, when an iterator fails.
    """
    payload = answer.payload()
    if not answer.cut:
        yield payload
        return
    yield payload[: len(payload) // 2]
    raise ConnectionDropped


def _target(request: Request) -> str:
    raw = request.environ.get("REQUEST_URI") or request.full_path
    return raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)


def _certificate(request: Request) -> bytes | None:
    pem = request.environ.get("SSL_CLIENT_CERT")
    return ssl.PEM_cert_to_DER_cert(pem) if pem else None


def _body(request: Request) -> bytes:
    """
    Read the body, and forget what is too much: an answer before its end would meet a client that still writes.
    """
    parts: list[bytes] = []
    size = 0
    while chunk := request.stream.read(_CHUNK):
        size += len(chunk)
        if size <= MAX_BODY + _CHUNK:
            parts.append(chunk)
    return b"".join(parts)
