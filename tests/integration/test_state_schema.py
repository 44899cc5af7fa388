"""Migrations: they make the schema that the code is written for, and no other one is touched."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from semver import Version
from sqlalchemy import Connection, inspect

from turnout.errors import ConfigError
from turnout.state import migrations
from turnout.state.engine import Database, Location
from turnout.state.schema import METADATA
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]


@pytest.fixture
def database(state_url: str) -> Iterator[Database]:
    with closing(Database(Location.parse(state_url))) as opened:
        yield opened


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, METADATA))


def constraints(connection: Connection) -> dict[str, object]:
    """Names and texts of what alembic does not compare, by table."""
    found = inspect(connection)
    return {
        table: (
            found.get_pk_constraint(table),
            sorted((check["name"], check["sqltext"]) for check in found.get_check_constraints(table)),
        )
        for table in METADATA.tables
    }


def test_the_migrations_make_the_schema_that_the_code_describes(state_url: str, database: Database) -> None:
    StateStore.open(state_url).close()
    with database.reading() as connection:
        assert differences(connection) == []
        migrated = constraints(connection)
    # Then again from the description alone, in the same database.
    with database.writing() as connection:
        METADATA.drop_all(connection)
        METADATA.create_all(connection)
    with database.reading() as connection:
        assert constraints(connection) == migrated


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

    with pytest.raises(ConfigError, match=r"has schema '0999', and this release of Turnout knows none after '0001'"):
        StateStore.open(state_url)

    with database.writing() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "0999"
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
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


def test_opening_a_database_that_is_up_to_date_writes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    StateStore.open(url).close()
    before = (tmp_path / "state.db").read_bytes()
    StateStore.open(url).close()
    assert (tmp_path / "state.db").read_bytes() == before
