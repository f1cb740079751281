"""
An HTTP server that answers what a test tells it to.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Seen:
    """One request, as the server saw it."""

    def __init__(self, method, path, headers, body):
        self.method, self.path, self.headers, self.body = method, path, headers, body


class Fake:
    """A server at `address`; `seen` lists the requests."""

    def __init__(self, answer, path=None):
        self.seen = []
        self.answer = answer
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = path is None

            def handle_any(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                seen = Seen(self.command, self.path.removeprefix("/v1/"), dict(self.headers), body)
                fake.seen.append(seen)
                outcome = fake.answer(seen)
                if outcome is None:  # cut the answer
                    self.close_connection = True
                    return
                status, headers, content = outcome
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                with contextlib.suppress(ConnectionError):  # who asked has given up
                    self.end_headers()
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_LIST = handle_any  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = (SocketServer if path else ThreadingHTTPServer)(path or ("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.server.block_on_close = False
        self.address = f"unix://{path}" if path else f"http://127.0.0.1:{self.server.server_address[1]}"


class SocketServer(ThreadingHTTPServer):
    """The same, on a Unix socket."""

    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self):
        return self.socket.accept()[0], ("unix", 0)


@contextlib.contextmanager
def serve(answer, tls=None, path=None):
    """
    Run a `Fake` whose answers are ``answer(request) -> (status, headers, body)``, or None to cut the connection.

    *tls* is an SSLContext, *path* that of a Unix socket.
    """
    fake = Fake(answer, path)
    if tls is not None:
        fake.server.socket = tls.wrap_socket(fake.server.socket, server_side=True)
        fake.address = fake.address.replace("http:", "https:")
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        thread.join()
        fake.server.server_close()
