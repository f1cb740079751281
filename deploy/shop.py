"""
A small shop: an ordinary WSGI application. What it knows of Vault are the lines that make its pool.

    GET /            how much was sold, and by which database user this was read
    POST /orders/7   sell one piece of item 7
    GET /status      what the pool knows of itself
    GET /health      200 while the pool has a credential that works
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from vault_pool import AppRole, DynamicRole, Vault, VaultPool

vault = Vault(os.environ["VAULT_ADDR"], auth=AppRole.from_env())
pool = VaultPool(
    os.environ["DATABASE"],
    source=DynamicRole("shop", vault=vault),
    min_size=2,
    max_size=8,
    name="shop",
)


def sold() -> dict[str, Any]:
    """Add up what was sold."""
    with pool.connection() as conn:
        total, user = conn.execute("SELECT sum(sold), current_user FROM items").fetchone()
    return {"sold": total, "user": user}


def order(item: str) -> dict[str, Any]:
    """Sell one piece."""
    with pool.connection() as conn:
        row = conn.execute("UPDATE items SET sold = sold + 1 WHERE id = %s RETURNING sold, current_user", [int(item)])
        total, user = row.fetchone()
    return {"sold": total, "user": user}


def status() -> dict[str, Any]:
    """Return the pool's own view."""
    return dataclasses.asdict(pool.status())


def health() -> dict[str, Any]:
    """Fail when no credential is in force."""
    with pool.connection(timeout=3) as conn:
        conn.execute("SELECT 1")
    return {"ok": True}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer one request."""
    routes: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {
        ("GET", ""): sold,
        ("GET", "status"): status,
        ("GET", "health"): health,
    }
    place, _, rest = environ["PATH_INFO"].strip("/").partition("/")
    if (environ["REQUEST_METHOD"], place) == ("POST", "orders") and rest.isdecimal() and 1 <= int(rest) <= 1000:
        handler: Callable[[], dict[str, Any]] | None = lambda: order(rest)  # noqa: E731
    else:
        handler = routes.get((environ["REQUEST_METHOD"], place))
    body = json.dumps(handler() if handler else {"error": "not found"}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK" if handler else "404 Not Found", headers)
    return [body]
