"""
The demo's web application: an ordinary one. It knows its pool, and nothing of Vault.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import psycopg
from cheroot import wsgi

from vault_pool import VaultPool

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from typing_extensions import Self

ITEMS: Final = 1000
#: What the application's database holds; `shop_rw` is the group that its users are members of.
SCHEMA: Final = f"""
    CREATE TABLE items (id int PRIMARY KEY, sold int NOT NULL DEFAULT 0);
    CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item_id int NOT NULL);
    CREATE TABLE reports (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sold bigint NOT NULL);
    INSERT INTO items (id) SELECT generate_series(1, {ITEMS});
    GRANT SELECT, INSERT, UPDATE ON items, orders, reports TO shop_rw;
"""

#: How long a report keeps its transaction open, in seconds.
REPORT_SECONDS: Final = 1.0


class NotFound(Exception):
    """
    There is nothing of that name.
    """


def order(pool: VaultPool, item: str) -> dict[str, Any]:
    """
    Sell one piece: a short transaction that reads and writes.
    """
    with pool.connection() as conn:
        found = conn.execute("SELECT sold FROM items WHERE id = %s", [int(item)]).fetchone()
        if found is None:
            raise NotFound
        conn.execute("UPDATE items SET sold = sold + 1 WHERE id = %s", [int(item)])
        conn.execute("INSERT INTO orders (item_id) VALUES (%s)", [int(item)])
    return {"item": int(item), "sold": found[0] + 1}


def report(pool: VaultPool, _: str) -> dict[str, Any]:
    """
    Add up all sales: a transaction that stays open while the application is busy with something else.
    """
    with pool.connection() as conn:
        found = conn.execute("SELECT sum(sold) FROM items").fetchone()
        assert found is not None
        time.sleep(REPORT_SECONDS)
        conn.execute("INSERT INTO reports (sold) VALUES (%s)", [found[0]])
    return {"sold": found[0]}


_ROUTES: Final[dict[tuple[str, str], Callable[[VaultPool, str], dict[str, Any]]]] = {
    ("POST", "orders"): order,
    ("POST", "reports"): report,
}


def application(pool: VaultPool) -> WSGIApplication:
    """
    Return the WSGI application: ``POST /orders/<item>`` is fast, ``POST /reports/`` takes about a second.
    """

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        _, place, name = f"{environ['PATH_INFO']}/".split("/", 3)[:3]
        try:
            body = _ROUTES[environ["REQUEST_METHOD"], place](pool, name)
            status = "200 OK"
        except (KeyError, ValueError, NotFound):
            status, body = "404 Not Found", {"error": "not found"}
        except psycopg.Error as error:
            status, body = "503 Service Unavailable", {"error": f"{type(error).__name__} {error.sqlstate}"}
        payload = json.dumps(body).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(payload)))])
        return [payload]

    return respond


class _QuietServer(wsgi.Server):
    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """
        Log nothing: what goes wrong is an answer that the clients count.
        """


class Website:
    """
    An application behind HTTP/1.1 with keep-alive, on loopback, from `with` until its end.
    """

    def __init__(self, app: WSGIApplication, *, threads: int) -> None:
        self._server = _QuietServer(("127.0.0.1", 0), app, numthreads=threads, shutdown_timeout=5)
        self._thread = threading.Thread(target=self._server.serve, name="demo-http", daemon=True)

    @property
    def port(self) -> int:
        """
        Where it listens; the system chose it.
        """
        return int(self._server.bind_addr[1])

    def __enter__(self) -> Self:
        self._server.prepare()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.stop()
        self._thread.join()
