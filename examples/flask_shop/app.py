"""
A Flask application on rotating credentials: three settings and one extension.

    flask --app app run            # or: gunicorn -c ../servers/gunicorn.conf.py app:app
"""

import logging
import os
import time
from collections.abc import Iterator

from flask import Flask, Response, jsonify, request, stream_with_context

from vault_pool.flask import FlaskVaultPool

logging.basicConfig(level=os.environ.get("LOG_LEVEL", "WARNING"))
vault = FlaskVaultPool()


def create_app() -> Flask:
    """
    Make the application; nothing is sent to Vault or to the database by this.
    """
    app = Flask(__name__)
    app.config["VAULT_POOL_CONNINFO"] = os.environ.get("DB_CONNINFO", "dbname=shop")
    app.config["VAULT_POOL_ROLE"] = os.environ.get("DB_ROLE", "shop")
    app.config["VAULT_POOL_MOUNT_POINT"] = os.environ.get("DB_MOUNT_POINT", "database")
    app.config["VAULT_POOL_MIN_SIZE"] = 2
    app.config["VAULT_POOL_MAX_SIZE"] = 8
    if "DB_USER" in os.environ:
        # A laptop without a Vault: what is for Vault above is left unused.
        app.config["VAULT_POOL_SOURCE"] = "fixed"
        app.config["VAULT_POOL_USER"] = os.environ["DB_USER"]
        app.config["VAULT_POOL_PASSWORD"] = os.environ["DB_PASSWORD"]
    vault.init_app(app)
    add_views(app)
    return app


def add_views(app: Flask) -> None:
    """
    Add views that read, write, stream, and tell who they are in the database.
    """

    @app.post("/items")
    def add_item() -> tuple[Response, int]:
        with vault.connection() as conn:
            conn.execute("INSERT INTO items (name) VALUES (%s)", (request.form.get("name", "thing"),))
        return jsonify(added=True), 201

    @app.get("/items")
    def count_items() -> Response:
        row = vault.conn.execute("SELECT count(*) FROM items").fetchone()
        return jsonify(items=row[0])

    @app.get("/whoami")
    def whoami() -> Response:
        row = vault.conn.execute("SELECT pg_backend_pid(), session_user").fetchone()
        return jsonify(pid=os.getpid(), backend=row[0], user=row[1])

    @app.get("/stream")
    def stream() -> Response:
        def names() -> Iterator[str]:
            for (name,) in vault.conn.execute("SELECT name FROM items LIMIT 50"):
                yield f"{name}\n"

        return Response(stream_with_context(names()), mimetype="text/plain")

    @app.get("/slow")
    def slow() -> str:
        with vault.conn.transaction():
            vault.conn.execute("SELECT 1")
            time.sleep(0.5)
            vault.conn.execute("SELECT 1")
        return "done"

    @app.post("/rotate")
    def rotate() -> Response:
        """Rotate the credential of this process now; for experiments."""
        vault.pool.rotate()
        return jsonify(pid=os.getpid(), generation=vault.pool.status().generation)


app = create_app()
