"""
FlaskVaultPool: applications, requests, streams, commands.
"""

from __future__ import annotations

import gc
import io
import json
import threading

import flask
import pytest
import sqlalchemy as sa

from tests.role_source import RoleSource
from tests.swapping import swapping
from vault_pool import ConfigurationError
from vault_pool.flask import FlaskVaultPool
from vault_pool.sqlalchemy import engine_options


@pytest.fixture
def shop(shared_database):
    return shared_database


@pytest.fixture
def make_app(shop):
    """Return a function that makes an application on the pool of a database's own roles, with a few views."""
    made = []

    def make(**config):
        app = flask.Flask("shop")
        app.config.update(VAULT_POOL_CONNINFO=shop.conninfo(), VAULT_POOL_MIN_SIZE=1, VAULT_POOL_MAX_SIZE=2)
        app.config.update(VAULT_POOL_TIMEOUT=3, **config)
        vault = FlaskVaultPool(app, source=RoleSource(shop))
        views(app, vault)
        made.append(app)
        return app, vault

    yield make
    for app in made:
        for pool in app.extensions["vault_pool"].values():
            pool.close()


def views(app, vault):
    """Give *app* a view for each way to use a connection."""

    @app.get("/user")
    def user():
        return vault.conn.execute("SELECT current_user").fetchone()[0]

    @app.get("/twice")
    def twice():
        return str(vault.conn is vault.conn)

    @app.post("/item/<name>")
    def item(name):
        with vault.connection() as conn:
            conn.execute("INSERT INTO items (name) VALUES (%s)", (name,))
        return "ok"

    @app.post("/half/<name>")
    def half(name):
        vault.conn.execute("INSERT INTO items (name) VALUES (%s)", (name,))
        return "ok"

    @app.post("/whole/<name>")
    def whole(name):
        with vault.conn.transaction():
            vault.conn.execute("INSERT INTO items (name) VALUES (%s)", (name,))
        return "ok"

    @app.get("/broken")
    def broken():
        vault.conn.execute("SELECT 1/0")

    @app.get("/stream")
    def stream():
        conn = vault.conn

        def rows():
            for number in range(3):
                yield f"{conn.execute('SELECT %s', (number,)).fetchone()[0]} "

        return flask.Response(rows())

    @app.get("/stream-with-context")
    def stream_with_context():
        first = vault.conn.execute("SELECT pg_backend_pid()").fetchone()[0]

        def rows():
            for _ in range(3):
                yield f"{vault.conn.execute('SELECT pg_backend_pid()').fetchone()[0] == first} "

        return flask.Response(flask.stream_with_context(rows()))

    @app.get("/file")
    def file():
        return flask.send_file(io.BytesIO(vault.conn.execute("SELECT 'a file'").fetchone()[0].encode()), "text/plain")

    @app.get("/closed")
    def closed():
        vault.conn.close()
        return str(vault.conn.execute("SELECT 1").fetchone()[0])

    @app.get("/stream-late")
    def stream_late():
        return flask.Response(flask.stream_with_context(str(vault.conn.execute("SELECT 1").fetchone()) for _ in "ab"))


def pool_of(app):
    return app.extensions["vault_pool"]["default"]


def idle(app):
    """Whether every connection is back."""
    stats = pool_of(app).get_stats()
    return stats["pool_available"] == stats["pool_size"]


def test_three_lines_give_an_application_a_pool(make_app):
    """Nothing is sent by init_app; the first request opens the pool."""
    app, _ = make_app()
    assert pool_of(app).closed

    user = app.test_client().get("/user").text

    assert user == pool_of(app).status().user
    assert idle(app)


def test_a_request_has_one_connection_and_gives_it_back(make_app):
    """`conn` is the same within a request, and returned after it, an error in the view included."""
    app, _ = make_app()
    client = app.test_client()
    assert client.get("/twice").text == "True"
    for _ in range(3):
        assert client.get("/broken").status_code == 500
        assert idle(app)


def test_what_was_not_committed_is_rolled_back(make_app, shop, caplog):
    """`connection()` commits, `conn` leaves that to the view; nobody is warned of a read."""
    app, _ = make_app()
    client = app.test_client()
    for path in ("/item/a-with", "/half/a-half", "/whole/a-whole", "/user"):
        getattr(client, "get" if path == "/user" else "post")(path)

    assert shop.execute("SELECT name FROM items WHERE name LIKE 'a-%%' ORDER BY 1") == [("a-whole",), ("a-with",)]
    assert "rolling back" not in caplog.text


@pytest.mark.parametrize(
    ("path", "body"), [("/stream", "0 1 2 "), ("/stream-with-context", "True True True "), ("/stream-late", "(1,)(1,)")]
)
def test_a_streamed_response_keeps_its_connection_to_its_end(make_app, path, body):
    """With stream_with_context and without, and also when the body asks for its connection first."""
    app, _ = make_app()
    response = app.test_client().get(path)

    assert response.text == body
    response.close()
    assert idle(app)


def test_a_client_that_goes_away_frees_the_connection(make_app):
    """The server closes a response that was not read to its end."""
    app, _ = make_app()
    for _ in range(4):
        with app.test_request_context("/stream"):
            response = app.full_dispatch_request()
            next(iter(response.response))
        response.close()
        assert idle(app)


def test_a_file_does_not_keep_the_connection(make_app):
    """Servers close the file itself, and not the response around it."""
    app, _ = make_app()
    response = app.test_client().get("/file")

    assert response.text == "a file"
    response.close()
    assert idle(app)


@pytest.mark.parametrize("later", [lambda _: flask.Response("other"), lambda _: 1 / 0])
def test_a_stream_that_is_not_sent_frees_the_connection(make_app, later):
    """Another function of the application replaces the response after ours has seen it, or fails."""
    app, _ = make_app()
    app.after_request_funcs.setdefault(None, []).insert(0, later)
    app.test_client().get("/stream").close()

    assert idle(app)


def test_a_context_around_requests_outlives_a_stream(make_app):
    """Tests have one around all of theirs: what is borrowed in it after a streamed response comes back at its end."""
    app, _ = make_app()
    with app.app_context():
        for path in ("/stream", "/user"):
            app.test_client().get(path).close()
    assert idle(app)


def test_a_connection_that_a_view_gave_back_is_not_touched_again(make_app):
    """With close_returns, close() gives it back: what the request uses after that is another checkout."""
    app, vault = make_app(VAULT_POOL_CLOSE_RETURNS=True, VAULT_POOL_MAX_SIZE=1)
    with app.app_context():
        vault.conn.close()
        with vault.connection() as other:
            other.execute("INSERT INTO items (name) VALUES ('kept')")
            app.do_teardown_appcontext()
            assert other.info.transaction_status == other.info.transaction_status.INTRANS
    assert app.test_client().get("/closed").text == "1"
    assert idle(app)


def test_an_engine_may_borrow_from_the_extension(make_app):
    """Its connections come back also when the context in which they were obtained is over."""
    app, vault = make_app()
    engine = sa.create_engine("postgresql+psycopg://", **engine_options(vault))
    with app.app_context():
        connection = engine.connect()
    connection.close()

    assert idle(app)


def test_outside_of_requests_the_context_of_the_application_counts(make_app):
    """Commands and scripts have `conn` too, for as long as their context lasts."""
    app, vault = make_app()
    with app.app_context():
        assert vault.conn.execute("SELECT 1").fetchone() == (1,)
        assert not idle(app)
    assert idle(app)


def test_applications_and_names_have_pools_of_their_own(make_app, shop):
    """A factory makes many applications with one extension; a second pool has a name."""
    app, vault = make_app()
    other = flask.Flask("other")
    other.config.update(VAULT_POOL_CONNINFO=shop.conninfo(), REPLICA_VAULT_POOL_MIN_SIZE="1")
    vault.init_app(other)
    replica = FlaskVaultPool(other, name="replica", source=RoleSource(shop), conninfo=shop.conninfo())
    with app.app_context():
        mine = vault.pool.status().name
    with other.app_context():
        assert len({mine, vault.pool.status().name, replica.pool.status().name}) == 3
        assert replica.pool.min_size == 1
    for pool in other.extensions["vault_pool"].values():
        pool.close()


def test_the_environment_counts_where_there_is_no_setting(monkeypatch):
    """An application without VAULT_POOL_… takes them from the environment."""
    monkeypatch.setenv("VAULT_POOL_SOURCE", "fixed")
    monkeypatch.setenv("VAULT_POOL_USER", "me")
    monkeypatch.setenv("VAULT_POOL_PASSWORD", "a secret of mine")
    app = flask.Flask("shop")
    FlaskVaultPool(app)

    assert "'me'" in pool_of(app).status().source


def test_an_application_that_is_dropped_closes_its_pool(shop):
    """As a test suite does that makes one for each test."""
    source = RoleSource(shop)
    app = flask.Flask("shop")
    vault = FlaskVaultPool(app, source=source, conninfo=shop.conninfo(), min_size=1)
    with app.app_context():
        vault.conn.execute("SELECT 1")
    del app
    gc.collect()
    closing = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    for thread in closing:
        thread.join(1)

    assert not source.live


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"VAULT_POOL_MIN_SIZE": "few"}, "VAULT_POOL_MIN_SIZE must be a whole number"),
        ({"VAULT_POOL_ROLES": "shop"}, "VAULT_POOL_ROLES is no setting: did you mean VAULT_POOL_ROLE?"),
        ({"VAULT_POOL_CONNINFO": "dbname=shop user=app password=x"}, "VAULT_POOL_CONNINFO holds user and password"),
        ({"VAULT_POOL_CONNINFO": "postgresql+psycopg://h/d"}, "write postgresql:// instead"),
        ({"VAULT_POOL_AUTH": None}, "or VAULT_ROLE_ID and VAULT_SECRET_ID, or give VAULT_POOL_AUTH"),
        ({"VAULT_POOL_AUTH": "approles"}, "VAULT_POOL_AUTH must be one of token, approle"),
    ],
)
def test_bad_settings_stop_the_application_from_starting(config, text):
    """The error names the key of the configuration."""
    app = flask.Flask("shop")
    vault = {"VAULT_POOL_VAULT_ADDRESS": "https://vault", "VAULT_POOL_AUTH": "agent"}
    app.config.update({"VAULT_POOL_ROLE": "shop", **vault, **config})
    with pytest.raises(ConfigurationError) as caught:
        FlaskVaultPool(app)

    assert text in str(caught.value)


def test_misuse_is_named(make_app):
    """Twice the same name, and an application without the extension."""
    app, vault = make_app()
    with pytest.raises(RuntimeError, match="named 'default': call init_app once"):
        vault.init_app(app)
    with app.app_context(), pytest.raises(ConfigurationError, match="no FlaskVaultPool named 'x'; it has: default"):
        FlaskVaultPool(name="x").pool  # noqa: B018 - it is the access that fails
    with flask.Flask("bare").app_context(), pytest.raises(ConfigurationError, match="call init_app"):
        vault.pool  # noqa: B018 - the same


@pytest.mark.parametrize("command", ["status", "check", "rotate"])
def test_commands(make_app, command):
    """`flask vault-pool …` opens the pool in the process of the command, and closes it."""
    app, _ = make_app()
    result = app.test_cli_runner().invoke(args=["vault-pool", command])

    assert result.exit_code == 0, result.output
    if command == "status":
        assert json.loads(result.output)["generation"] == 1
    else:
        assert {"check": "is logged in", "rotate": "has succeeded"}[command] in result.output
    assert pool_of(app).closed


def test_commands_say_what_is_wrong(shop):
    """A credential that cannot be had is one line and exit code 1."""
    app = flask.Flask("shop")
    app.config.update(VAULT_POOL_CONNINFO=shop.conninfo(), VAULT_POOL_SOURCE="fixed")
    app.config.update(VAULT_POOL_USER="nobody", VAULT_POOL_PASSWORD="wrong", VAULT_POOL_TIMEOUT=1)
    FlaskVaultPool(app)
    pool_of(app).open = lambda wait=True, timeout=30.0: type(pool_of(app)).open(pool_of(app), wait, 1.0)
    result = app.test_cli_runner().invoke(args=["vault-pool", "check"])

    assert result.exit_code == 1
    assert "PostgreSQL refused the login of 'nobody'" in result.output
    assert "wrong" not in result.output


def test_requests_go_on_while_the_credential_changes(make_app):
    """Views in four threads, swaps every 0.3 s, the old role dropped after each: every answer is 200."""
    app, vault = make_app(VAULT_POOL_OVERLAP=1)
    with app.app_context():
        pool = vault.pool
    pool.wait()
    stop, answers = threading.Event(), []
    paths = ["/user", "/stream", "/stream-with-context", "/twice"]

    def ask(number):
        client = app.test_client()
        while not stop.is_set():
            with client.get(paths[number]) as response:
                answers.append((response.status_code, bool(response.text)))
            stop.wait(0.005)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    with swapping(pool) as generations:
        while len(generations) < 5 and threads[0].is_alive():
            stop.wait(0.05)
    stop.set()
    for thread in threads:
        thread.join()

    assert set(answers) == {(200, True)}
    assert len(answers) > 50
    assert len(pool._source.dropped) >= 4
