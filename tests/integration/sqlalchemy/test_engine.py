"""
SQLAlchemy engines that borrow from a VaultPool.
"""

from __future__ import annotations

import gc
import threading
import time

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from sqlalchemy import event, orm
from sqlalchemy.dialects.postgresql import JSONB

from tests.swapping import pool_of, swapping
from vault_pool import ConfigurationError, VaultPool
from vault_pool.sqlalchemy import attach, engine_options


@pytest.fixture
def shop(shared_database):
    return shared_database


@pytest.fixture
def pool(shop):
    with pool_of(shop, max_size=2, timeout=3.0) as pool:
        yield pool


def url(shop, **query):
    """Return the database's URL, as an application would write it."""
    place = f"postgresql+psycopg://{shop.server.host}:{shop.server.port}/{shop.name}"
    return sa.make_url(place).update_query_dict(query)


@pytest.fixture
def ours(shop, pool):
    """Return a function that makes an engine on our pool."""
    made = []

    def make(**options):
        made.append(sa.create_engine(url(shop), **engine_options(pool), **options))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


@pytest.fixture
def naive(shop):
    """Return a function that makes an engine in the way of psycopg's and SQLAlchemy's documentation."""
    login = shop.create_login()
    conninfo = shop.conninfo(user=login.user, password=login.password)
    with ConnectionPool(conninfo, min_size=1, max_size=2, timeout=1.0, close_returns=True) as pool:
        yield lambda **options: sa.create_engine(
            "postgresql+psycopg://", creator=pool.getconn, poolclass=sa.NullPool, **options
        )


@pytest.fixture(params=["ours", pytest.param("naive", marks=pytest.mark.xfail(strict=True))])
def make_engine(request):
    """Each trap is shown to be one by an engine made in the naive way, on which the same test fails."""
    return request.getfixturevalue(request.param)


def pid(connection):
    return connection.scalar(sa.text("SELECT pg_backend_pid()"))


def test_an_engine_is_bound_by_three_lines(shop, pool):
    """The user is the pool's, and the connection goes back to it."""
    engine = sa.create_engine(url(shop), **engine_options(pool))
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_user")) == pool.status().user
        assert pool.get_stats()["pool_available"] == 0

    assert pool.get_stats()["pool_available"] == 1
    assert repr(engine.url) == str(engine.url)


# --- The four traps ------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_while_it_is_out_frees_its_slot(make_engine, shop):
    """The server ends more sessions than the pool may have, each while it is out: the pool goes on."""
    engine = make_engine()
    for _ in range(3):
        with engine.connect() as connection:
            shop.terminate()
            with pytest.raises(sa.exc.OperationalError):
                connection.execute(sa.text("SELECT 1"))
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


def test_handlers_of_notices_do_not_pile_up(make_engine):
    """SQLAlchemy adds its own with each checkout; a session has one of them, and none when it is back."""
    engine = make_engine()
    for _ in range(5):
        with engine.connect() as connection:
            session = connection.connection.dbapi_connection
            assert len(session._notice_handlers) == 1


def test_invalidate_ends_the_session(make_engine, shop):
    """What SQLAlchemy was told to throw away does not live on in the pool."""
    engine = make_engine()
    with engine.connect() as connection:
        first = pid(connection)
        connection.invalidate()
    deadline = time.monotonic() + 2
    while first in {session.pid for session in shop.sessions()}:
        assert time.monotonic() < deadline, "the session is still there"
        time.sleep(0.02)


def test_the_engines_own_deserializer_is_used(make_engine):
    """json_deserializer and json_serializer hold, though SQLAlchemy did not connect."""
    engine = make_engine(json_deserializer=lambda text: ("mine", text), json_serializer=lambda value: '{"my": 1}')
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.cast(sa.literal({"a": 2}, JSONB), JSONB))) == ("mine", b'{"my": 1}')


# --- Around them ---------------------------------------------------------------------------------------------


def test_what_sqlalchemy_changes_is_undone_for_others(ours, pool):
    """Who borrows the same session from the pool itself gets psycopg's own JSON, and no foreign handlers."""
    engine = ours(json_deserializer=lambda text: "mine")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT '1'::jsonb")) == "mine"
    with pool.connection() as conn:
        assert conn.execute("SELECT '1'::jsonb").fetchone() == (1,)
        assert conn._notice_handlers == []


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_the_isolation_level_of_an_engine_is_not_that_of_others(ours, pool, shop, level):
    """SQLAlchemy sets it when it connects, and never back; here the next borrower has a transaction like any other."""
    with ours(isolation_level=level).connect() as connection:
        session = connection.connection.dbapi_connection
        assert session.autocommit if level == "AUTOCOMMIT" else connection.get_isolation_level() == level
    with pytest.raises(LookupError), pool.connection() as conn:
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
        conn.execute("INSERT INTO items (name) VALUES ('undone')")
        raise LookupError

    assert shop.execute("SELECT count(*) FROM items WHERE name = 'undone'") == [(0,)]


def test_what_a_listener_changes_is_undone_for_others(ours, pool):
    """Also in a transaction that SQLAlchemy was told to leave open."""
    engine = ours(pool_reset_on_return=None)

    @event.listens_for(engine, "connect")
    def change(conn, _record):
        conn.read_only = True
        conn.row_factory = dict_row
        conn.prepare_threshold = None

    raw = engine.raw_connection()
    raw.cursor().execute("SELECT 1")
    raw.close()
    with pool.connection() as conn:
        assert (conn.read_only, conn.prepare_threshold) == (None, 5)
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_an_engine_has_transactions_and_rows_of_its_own(shop):
    """A pool whose other borrowers have autocommit and rows that are dicts serves it as psycopg.connect would."""
    with pool_of(shop, kwargs={"autocommit": True, "row_factory": dict_row}) as pool:
        engine = sa.create_engine(url(shop), **engine_options(pool))
        with pytest.raises(LookupError), engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO items (name) VALUES ('half')"))
            raise LookupError
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT name FROM items WHERE name = 'half'")).fetchall() == []
            assert connection.execute(sa.text("SELECT 1")).fetchall() == [(1,)]
        with pool.connection() as conn:
            assert conn.autocommit
            assert conn.execute("SELECT 1 AS one").fetchone() == {"one": 1}


def test_a_listener_that_fails_loses_no_slot(ours):
    """SQLAlchemy before 2.1.9 forgets a connection whose event "connect" fails."""
    engine = ours()

    def fail(_conn, _record):
        raise LookupError

    event.listen(engine, "connect", fail)
    for _ in range(4):
        with pytest.raises(LookupError):
            engine.connect()
    event.remove(engine, "connect", fail)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


def test_isolation_levels_are_per_checkout(ours):
    """AUTOCOMMIT of one borrower is not that of the next."""
    engine = ours()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.connection.dbapi_connection.autocommit
    with engine.connect() as connection:
        assert not connection.connection.dbapi_connection.autocommit
        assert connection.get_isolation_level() == "READ COMMITTED"


def test_a_detached_connection_is_given_back_by_its_close(ours, pool):
    """detach() takes it from SQLAlchemy's pool; it goes on, and closing it is the same as ever."""
    connection = ours().connect()
    connection.detach()
    gc.collect()
    assert connection.scalar(sa.text("SELECT 1")) == 1
    connection.close()

    assert pool.get_stats()["pool_available"] == 1


def test_a_forgotten_connection_comes_back_with_the_garbage(ours, pool):
    """SQLAlchemy returns what was not closed when it is collected."""
    engine = ours()
    connection = engine.connect()
    connection.execute(sa.text("SELECT 1"))
    del connection
    gc.collect()

    assert pool.get_stats()["pool_available"] == 1


def test_a_pool_that_is_empty_is_an_operational_error(ours, pool):
    """PoolTimeout arrives as SQLAlchemy's own error."""
    engine = ours()
    pool.timeout = 0.2
    with engine.connect(), engine.connect(), pytest.raises(sa.exc.OperationalError, match="couldn't get a connection"):
        engine.connect()


def test_a_pool_that_is_not_open_yet_is_opened(shop):
    """The first connection of the engine opens it."""
    with pool_of(shop) as other:
        source = other._source
        pool = VaultPool(shop.conninfo(), source=source, min_size=1)
        engine = sa.create_engine(url(shop), **engine_options(pool))
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        pool.close()


def test_orm_threads_lose_nothing_while_the_credential_changes(shop):
    """Sessions that read and write through swaps every 0.3 s, the old role dropped each time: no error."""
    base = orm.declarative_base()

    class Item(base):
        __tablename__ = "items"
        id = sa.Column(sa.BigInteger, primary_key=True)
        name = sa.Column(sa.Text)

    stop, failures, done = threading.Event(), [], []

    def work(number):
        while not stop.is_set():
            try:
                with orm.Session(engine) as session, session.begin():
                    item = session.get(Item, 1)
                    item.name = f"{number}"
                    session.flush()
                    session.add(Item(name="new"))
                done.append(number)
            except Exception as error:  # noqa: BLE001 - all of them count
                failures.append(error)
            stop.wait(0.005)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    with pool_of(shop) as pool, swapping(pool) as generations:
        engine = sa.create_engine(url(shop), **engine_options(pool))
        for thread in threads:
            thread.start()
        while len(generations) < 5:
            stop.wait(0.05)
        stop.set()
        for thread in threads:
            thread.join()

    assert not failures
    assert len(done) > 50
    assert len(pool._source.dropped) >= 5


# --- The plugin ----------------------------------------------------------------------------------------------


def test_the_url_alone_names_a_pool(shop):
    """?plugin=vault_pool&vault_pool=shop finds the pool of that name in this process."""
    with pool_of(shop, name="shop-of-the-test") as pool:
        engine = sa.create_engine(str(url(shop, plugin="vault_pool", vault_pool="shop-of-the-test")))
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT current_user")) == pool.status().user
        assert "plugin" not in str(engine.url)


def test_the_url_and_the_environment_make_a_pool(shop, monkeypatch, no_leaks):
    """Where nothing else is there, in Alembic's env.py for example, VAULT_POOL_… says the rest; dispose() closes it."""
    login = shop.create_login()
    for name, value in {"source": "fixed", "user": login.user, "password": login.password, "min_size": "1"}.items():
        monkeypatch.setenv(f"VAULT_POOL_{name.upper()}", value)
    settings = {"sqlalchemy.url": str(url(shop, plugin="vault_pool", application_name="alembic"))}
    engine = sa.engine_from_config(settings, poolclass=sa.NullPool)
    for _ in range(2):
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT current_user")) == login.user
            assert connection.scalar(sa.text("SHOW application_name")) == "alembic"
        engine.dispose()
        gone_by = time.monotonic() + 5
        while shop.sessions(login.user) and time.monotonic() < gone_by:
            time.sleep(0.01)
        assert not shop.sessions(login.user)


def test_an_engine_that_exists_is_attached(shop, pool):
    """attach() is for engines that somebody else makes."""
    engine = sa.create_engine(url(shop), poolclass=sa.NullPool)
    attach(engine, pool)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_user")) == pool.status().user


@pytest.mark.parametrize(
    ("address", "options", "text"),
    [
        ("postgresql+psycopg://u:secret-of-the-url@h/d", {}, "the URL holds username and password, but the pool's"),
        ("postgresql+psycopg://h/d?user=u&password=secret-of-the-url", {}, "write postgresql+psycopg://h/d"),
        ("postgresql+psycopg2://h/d", {}, "the URL begins with postgresql+psycopg2://: write postgresql+psycopg://"),
        ("sqlite://", {}, "the URL begins with sqlite://: write postgresql+psycopg://"),
        ("postgresql+psycopg://h/d", {"pool_size": 5}, "remove it, and set min_size of the VaultPool"),
        ("postgresql+psycopg://h/d", {"creator": print}, "creator and the plugin vault_pool exclude each other"),
    ],
)
def test_engines_that_cannot_follow_are_refused(address, options, text):
    """The error says what to write instead, and repeats no password."""
    with pytest.raises(ConfigurationError) as caught:
        sa.create_engine(address, plugins=["vault_pool"], **options)

    assert text in str(caught.value)
    assert "secret-of-the-url" not in str(caught.value)


def test_arguments_of_connections_that_are_made_already_are_refused(shop, pool):
    """They would be ignored."""
    with pytest.raises(ConfigurationError, match=r"connect_args is for .* set kwargs of the VaultPool"):
        sa.create_engine(url(shop), connect_args={"options": "-c search_path=shop"}, **engine_options(pool))


def test_an_engine_with_a_pool_of_its_own_is_not_attached(shop, pool):
    """QueuePool would keep sessions beyond their credential."""
    with pytest.raises(ConfigurationError, match="or with poolclass=NullPool"):
        attach(sa.create_engine(url(shop)), pool)


def test_an_engine_without_a_pool_says_how_to_give_it_one(shop):
    """No pool of that name, and nothing in the environment."""
    engine = sa.create_engine(url(shop), plugins=["vault_pool"], vault_pool="nobody")
    with pytest.raises(ConfigurationError, match=r"no VaultPool is named 'nobody', engine_options.*VAULT_ADDR"):
        engine.connect()


def test_a_raw_connection_is_psycopgs(ours):
    """What the application gets is a psycopg.Connection with all of its features."""
    raw = ours().raw_connection()
    assert isinstance(raw.driver_connection, psycopg.Connection)
    raw.close()
