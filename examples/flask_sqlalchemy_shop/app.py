"""
A Flask application with Flask-SQLAlchemy and Flask-Migrate on rotating credentials.

    flask --app app db upgrade
    flask --app app run

The URL names the plugin; the pool is made of the environment: VAULT_POOL_ROLE, VAULT_POOL_ASSUME_ROLE, and Vault's own
VAULT_ADDR, VAULT_ROLE_ID and so on. On a laptop without a Vault: VAULT_POOL_SOURCE=fixed, VAULT_POOL_USER,
VAULT_POOL_PASSWORD.
"""

import logging
import os

from flask import Flask, Response, jsonify, request
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

logging.basicConfig(level=os.environ.get("LOG_LEVEL", "WARNING"))


class Base(DeclarativeBase):
    """
    The base of all models.
    """


db = SQLAlchemy(model_class=Base)
migrate = Migrate(compare_type=True)


class Item(db.Model):
    """
    A thing with a name.
    """

    __tablename__ = "things"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def create_app() -> Flask:
    """
    Make the application; nothing is sent to Vault or to the database by this.
    """
    app = Flask(__name__)
    place = f"{os.environ.get('DB_HOST', 'localhost')}:{os.environ.get('DB_PORT', '5432')}"
    name = os.environ.get("DB_NAME", "shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"postgresql+psycopg://{place}/{name}?plugin=vault_pool"
    db.init_app(app)
    migrate.init_app(app, db)
    add_views(app)
    return app


def add_views(app: Flask) -> None:
    """
    Add views that read, write, and tell who they are in the database.
    """

    @app.post("/items")
    def add_item() -> tuple[Response, int]:
        item = Item(name=request.form.get("name", "thing"))
        db.session.add(item)
        db.session.commit()
        return jsonify(id=item.id), 201

    @app.get("/items")
    def count_items() -> Response:
        return jsonify(items=db.session.query(Item).count())

    @app.get("/whoami")
    def whoami() -> Response:
        backend, user = db.session.execute(text("SELECT pg_backend_pid(), session_user")).one()
        return jsonify(pid=os.getpid(), backend=backend, user=user)

    @app.get("/stream")
    def stream() -> Response:
        names = db.session.scalars(db.select(Item.name).limit(50)).all()
        return Response(f"{name}\n" for name in names)


app = create_app()
