"""Either end of a connection to PostgreSQL stands still: the database, or a proxy in front of it, acknowledges all that
it gets and never answers; or a server stops in the middle of a transaction."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from datetime import UTC, datetime
from typing import TypeVar

import pytest
from alembic.config import Config
from semver import Version
from sqlalchemy import update

from postgres_fixture import PostgresServer
from tcp_proxy import TcpProxy
from turnout.errors import UnavailableError
from turnout.state.database import migrations, schema
from turnout.state.database.engine import Database, Location
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]
pytestmark = pytest.mark.slow

T = TypeVar("T")
V1 = Version.parse("1.0.0")
WHO = {"actor": "ada", "reason": "it was time"}
PATIENCE = 60.0


@pytest.fixture
def direct(postgres_server: PostgresServer) -> str:
    """The URL of a new state store."""
    url = postgres_server.new_database()
    StateStore.open(url).close()
    return url


@pytest.fixture
def proxy(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """A proxy in front of it. Connections give up after two seconds instead of thirty."""
    monkeypatch.setattr("turnout.state.database.postgresql.ANSWER_SECONDS", 2.0)
    monkeypatch.setattr("turnout.state.database.notifications._ASK_SECONDS", 0.2)
    with TcpProxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def url(postgres_server: PostgresServer, proxy: TcpProxy, direct: str) -> str:
    """The URL of the store through the proxy."""
    return direct.replace(f":{postgres_server.port}/", f":{proxy.port}/")


def ended(call: Callable[[], T]) -> T:
    """Calls in a thread, so that what never ends fails a test instead of stopping it."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except UnavailableError as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(PATIENCE)


def test_an_idle_connection_that_is_not_answered_any_more_is_replaced(proxy: TcpProxy, url: str) -> None:
    with StateStore.open(url) as store:
        store.release("magika", V1, **WHO)
        proxy.strand()
        assert ended(store.revision) == 1
        assert ended(lambda: store.release("magika", Version(2, 0, 0), **WHO))


def test_a_change_whose_statement_is_not_answered_is_refused_and_the_next_is_made(
    proxy: TcpProxy, url: str, direct: str
) -> None:
    strand = threading.Event()

    def now() -> datetime:
        if strand.is_set():
            strand.clear()
            proxy.strand()
        return datetime.now(UTC)

    with StateStore.open(url, now=now) as store:
        strand.set()
        with pytest.raises(UnavailableError, match="it does not answer"):
            ended(lambda: store.release("magika", V1, **WHO))
        assert ended(store.revision) == 0
        # As a server does whose host is gone: the lock of the stranded transaction is released.
        proxy.cut()
        proxy.restore()
        assert ended(lambda: store.release("magika", V1, **WHO))
    with StateStore.open(direct) as store:
        assert store.revision() == 1


def test_a_commit_that_is_not_answered_is_refused(proxy: TcpProxy, url: str) -> None:
    def change(database: Database) -> None:
        with database.writing() as connection:
            connection.exec_driver_sql("CREATE TABLE extra (number INTEGER)")
            proxy.strand()

    with closing(Database(Location.parse(url))) as database:
        with pytest.raises(UnavailableError, match="it does not answer"):
            ended(lambda: change(database))
        assert ended(lambda: database.check()) is None


def test_a_listener_that_is_not_answered_listens_to_the_server_that_is_there_now(
    proxy: TcpProxy, url: str, direct: str
) -> None:
    heard = threading.Event()
    with StateStore.open(url) as store, StateStore.open(direct) as other:
        store.listen(heard.set)
        assert heard.wait(PATIENCE)
        proxy.strand()
        heard.clear()
        assert heard.wait(PATIENCE), "it listens to a connection on which nothing comes"
        heard.clear()
        other.release("magika", V1, **WHO)
        assert heard.wait(PATIENCE)


def write(database: Database, meanwhile: Callable[[], object]) -> None:
    with database.writing() as connection:
        connection.execute(update(schema.revision).values(number=7))
        meanwhile()
        connection.exec_driver_sql("SELECT 1")


def test_a_server_that_stands_still_while_it_writes_does_not_keep_the_others_from_writing(direct, monkeypatch) -> None:
    monkeypatch.setattr("turnout.state.database.engine._IDLE_SECONDS", 1.0)
    with closing(Database(Location.parse(direct))) as still, StateStore.open(direct) as store:
        with pytest.raises(UnavailableError):
            write(still, lambda: ended(lambda: store.release("magika", V1, **WHO)))
        assert store.revision() == 1


def test_a_migration_may_take_as_long_as_it_needs(direct: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.state.database.postgresql.ANSWER_SECONDS", 1.0)

    def slow(config: Config, _: str) -> None:
        config.attributes["connection"].exec_driver_sql("SELECT pg_sleep(2.5)")

    monkeypatch.setattr("alembic.command.upgrade", slow)
    with closing(Database(Location.parse(direct))) as database:
        with database.writing() as connection:
            migrations._migrate(connection, migrations.HEAD, database.name)
        with pytest.raises(UnavailableError), database.writing() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(2.5)")
