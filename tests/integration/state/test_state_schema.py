"""Migrations: they make the schema that the code is written for, and no other one is touched."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from semver import Version
from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import DBAPIError

from postgres_fixture import PostgresServer
from turnout.errors import ConfigError
from turnout.state.database import migrations
from turnout.state.database.engine import Database, Location
from turnout.state.database.schema import METADATA
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]


@pytest.fixture
def database(state_url: str) -> Iterator[Database]:
    with closing(Database(Location.parse(state_url))) as opened:
        yield opened


@pytest.fixture
def new_database_url(state_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives URLs of new databases, all of one kind."""
    if state_url.startswith("sqlite"):
        numbers = count()
        return lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, METADATA))


CATALOG = {
    "sqlite": {
        "columns": """
            SELECT tables.name, columns.* FROM sqlite_master AS tables, pragma_table_xinfo(tables.name) AS columns
            WHERE tables.type = 'table'
        """,
        "indexes": """
            SELECT tables.name, indexes.name, indexes."unique", indexes.origin, indexes.partial, columns.*
            FROM sqlite_master AS tables, pragma_index_list(tables.name) AS indexes,
            pragma_index_xinfo(indexes.name) AS columns WHERE tables.type = 'table'
        """,
        "triggers": "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'trigger'",
        "the rest": "SELECT type, name FROM sqlite_master",
    },
    "postgresql": {
        "columns": """
            SELECT table_name, ordinal_position, column_name, data_type, character_maximum_length, is_nullable,
            column_default, is_identity FROM information_schema.columns WHERE table_schema = 'public'
        """,
        "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "constraints": """
            SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
        """,
        "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "functions": "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "the rest": "SELECT relkind::text, relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    },
}
"""What a database says of its own schema."""


def described(connection: Connection) -> dict[str, list[tuple[str, ...]]]:
    """Everything that the database says of its schema, with white space told as one space, and its checks."""
    found = {
        kind: sorted(
            tuple(" ".join(str(value).split()) for value in row) for row in connection.exec_driver_sql(query).all()
        )
        for kind, query in CATALOG[connection.dialect.name].items()
    }
    inspector = inspect(connection)
    for table in inspector.get_table_names():
        # SQLite has no other record of a constraint's name than the text that made the table.
        checks = [(str(check["name"]), check["sqltext"]) for check in inspector.get_check_constraints(table)]
        found[f"constraints of {table}"] = sorted([*checks, (str(inspector.get_pk_constraint(table)),)])
    return found


def test_a_new_database_has_the_very_schema_that_the_migrations_make(
    new_database_url: Callable[[], str],
) -> None:
    made, migrated = new_database_url(), new_database_url()
    StateStore.open(made).close()
    with closing(Database(Location.parse(migrated))) as database:
        migrate_to(database, "head")
        with database.reading() as connection:
            expected = described(connection)
            counted = {table: everything(connection, table) for table in inspect(connection).get_table_names()}
    with closing(Database(Location.parse(made))) as database, database.reading() as connection:
        assert described(connection) == expected
        assert {table: everything(connection, table) for table in counted} == counted
        assert differences(connection) == []
    assert (counted["alembic_version"], counted["revision"]) == ([(migrations.HEAD,)], [(1, 0)])


def everything(connection: Connection, table: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE tags ADD COLUMN colour TEXT",
        "DROP INDEX ix_events_model_id",
        "CREATE TABLE colours (id INTEGER)",
        {"sqlite": "DROP TRIGGER events_no_update", "postgresql": "DROP TRIGGER events_append_only ON events"},
    ],
)
def test_that_comparison_would_notice_a_difference(
    state_url: str, database: Database, change: str | dict[str, str]
) -> None:
    StateStore.open(state_url).close()
    with database.writing() as connection:
        before = described(connection)
        connection.exec_driver_sql(change if isinstance(change, str) else change[connection.dialect.name])
        assert described(connection) != before


def test_the_comparison_would_notice_a_difference(state_url: str, database: Database) -> None:
    StateStore.open(state_url).close()
    with database.writing() as connection:
        connection.exec_driver_sql("DROP INDEX ix_events_model_id")
        connection.exec_driver_sql("ALTER TABLE tags ADD COLUMN colour TEXT")
    with database.reading() as connection:
        assert {difference[0] for difference in differences(connection)} == {"add_index", "remove_column"}  # type: ignore[index] # tuples, untyped in alembic


def test_the_head_that_is_written_down_is_that_of_the_files() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


def test_a_database_of_a_newer_release_is_refused_and_left_alone(state_url: str, database: Database) -> None:
    with StateStore.open(state_url) as store:
        store.release("magika", Version(1, 0, 0), actor="ada", reason="")
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")

    with pytest.raises(
        ConfigError, match=rf"has schema '0999', and this release .* knows none after '{migrations.HEAD}'"
    ):
        StateStore.open(state_url)

    with database.writing() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "0999"
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{migrations.HEAD}'")
    with StateStore.open(state_url) as store:
        assert store.revision() == 1


def test_a_migration_that_fails_leaves_nothing_behind(state_url: str, database: Database) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE events (id INTEGER)")  # some other program's

    with pytest.raises(ConfigError, match="holds tables of another program"):
        StateStore.open(state_url)

    with database.reading() as connection:
        assert inspect(connection).get_table_names() == ["events"]
    with database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE events")
    with StateStore.open(state_url) as store:
        assert store.revision() == 0


def migrate_to(database: Database, revision: str) -> None:
    """Makes in an empty database what an earlier release made."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def rows(database: Database, tables: list[str]) -> dict[str, list[tuple[object, ...]]]:
    """Reads what the first schema knew of them."""
    later = {"previous", "hash"}
    with database.reading() as connection:
        return {
            table: sorted(
                tuple(row)
                for row in connection.execute(select(*(c for c in METADATA.tables[table].c if c.name not in later)))
            )
            for table in tables
        }


def test_a_database_of_the_first_schema_keeps_its_data_and_gains_policies(state_url: str, database: Database) -> None:
    first = ["events", "revision", "standings", "tags"]
    migrate_to(database, "0001")
    with database.writing() as connection:
        assert sorted(inspect(connection).get_table_names()) == ["alembic_version", *first]
        for statement in (
            "UPDATE revision SET number = 3",
            "INSERT INTO standings VALUES ('magika', '3.2.0', 'released'), ('magika', '3.1.0', 'yanked')",
            "INSERT INTO tags VALUES ('magika', 'stable', '3.2.0+build.7')",
            "INSERT INTO events VALUES "
            "(1, '2026-03-01T10:00:00.000250Z', 'magika', 'released', '3.1.0', 'ada', '', '{\"version\":\"3.1.0\"}'),"
            "(2, '2026-03-01T10:00:01.000250Z', 'magika', 'released', '3.2.0', 'ada', '', '{\"version\":\"3.2.0\"}'),"
            "(3, '2026-03-01T10:00:02.000250Z', 'magika', 'tag_set', 'stable', 'bob', 'faster', "
            '\'{"previous":null,"tag":"stable","version":"3.2.0+build.7"}\')',
        ):
            connection.exec_driver_sql(statement)
    before = rows(database, first)

    with StateStore.open(state_url) as store:
        assert rows(database, first) == before
        with database.reading() as connection:
            assert differences(connection) == []
        assert store.revision() == 3
        assert store.policies() == {}
        release_state = store.release_state().of("magika")
        assert release_state.release_status(Version(3, 2, 0)) is ReleaseStatus.RELEASED
        assert release_state.release_status(Version(3, 1, 0)) is ReleaseStatus.YANKED
        assert str(release_state.tags["stable"]) == "3.2.0+build.7"
        assert [(event.id, event.reason) for event in store.events()] == [(3, "faster"), (2, ""), (1, "")]
        audit = store.audit()
        assert (audit.chain.events, audit.chain.faults) == (3, ())
        assert audit.differences == ("magika 3.1.0 is yanked in the store, but released in the log",)

        made = store.put_policy("magika", {"baseline": "3.2.0"}, expected_epoch=0, action="set", actor="", reason="")
        assert (made.epoch, made.revision) == (1, 4)
    for table in ("events", "policies"):
        with pytest.raises(DBAPIError, match=f"{table} are append-only"), database.writing() as connection:
            connection.exec_driver_sql(f"DELETE FROM {table}")


def test_an_upgrade_that_fails_leaves_the_first_schema_as_it_was(state_url: str, database: Database) -> None:
    migrate_to(database, "0001")
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE policies (id INTEGER)")  # some other program's

    with pytest.raises(DBAPIError, match="already exists"):
        StateStore.open(state_url)

    with database.writing() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "0001"
        connection.exec_driver_sql("DROP TABLE policies")
    with StateStore.open(state_url) as store:
        assert store.policies() == {}


def test_opening_a_database_that_is_up_to_date_writes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    StateStore.open(url).close()
    before = (tmp_path / "state.db").read_bytes()
    StateStore.open(url).close()
    assert (tmp_path / "state.db").read_bytes() == before
