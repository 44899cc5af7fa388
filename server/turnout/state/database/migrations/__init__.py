"""Migrates a database to the schema of this release, once, even if several processes open it at the same time.

A new schema is a new file in `versions/`, with the next number as its `revision`, and `HEAD` set to it. There are no
downgrades: an older release refuses a newer schema, and going back means restoring a backup. An empty database gets its
schema directly from `turnout.state.database.schema`; a test compares that with the result of the migrations.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, func, insert, inspect, select

from turnout.errors import ConfigError
from turnout.state.database.engine import Database
from turnout.state.database.schema import METADATA, revision, triggers

HEAD = "0008"
"""The schema of this release. Defined here so that an up-to-date database can be opened without importing alembic."""

_ADVISORY_LOCK = 0x7475726E6F7574
"""Key of the PostgreSQL advisory lock that guards schema changes: `turnout` in ASCII."""

_UPGRADE = threading.Lock()
"""Taken for a migration: `alembic.op` and `alembic.context` are global, so two threads must take turns."""

_ALEMBIC_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""The table in which alembic records the schema, as alembic creates it."""


def upgrade(database: Database) -> None:
    """Migrates `database` to `HEAD`; does nothing if it is up to date.

    Raises:
        ConfigError: The schema is unknown to this release, or the tables are another program's.
        UnavailableError: Another process held the lock for too long, or the database does not respond.
    """
    with database.reading(starting=True) as connection:
        if installed(connection) == HEAD:
            return
    with _UPGRADE, database.writing(starting=True) as connection:
        if connection.dialect.name == "postgresql":
            # SQLite's BEGIN IMMEDIATE is such a lock already.
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        found = installed(connection)
        if found == HEAD:
            return
        if found is None:
            _create(connection, database.name)
        else:
            _migrate(connection, found, database.name)


def _create(connection: Connection, name: str) -> None:
    """Creates the schema of this release in the empty database `name`.

    This takes 6 ms of CPU time. Running the files of `versions/` in order took 45 ms, and importing alembic 300 ms.

    Raises:
        ConfigError: The database contains tables of another program.
    """
    if taken := METADATA.tables.keys() & inspect(connection).get_table_names():
        raise ConfigError(
            f"the database {name} holds tables of another program ({', '.join(sorted(taken))}): name a database of "
            "Turnout's own"
        )
    METADATA.create_all(connection, checkfirst=False)
    for statement in triggers(connection.dialect.name):
        connection.exec_driver_sql(statement)
    connection.execute(insert(revision).values(id=1, number=0))
    _ALEMBIC_VERSION.create(connection, checkfirst=True)
    connection.execute(insert(_ALEMBIC_VERSION).values(version_num=HEAD))


def _migrate(connection: Connection, installed: str, name: str) -> None:
    """Migrates the database `name` from the schema `installed` to that of this release.

    Raises:
        ConfigError: `installed` is not a schema that this release knows.
    """
    # Imported here, since the import takes 0.3 s of CPU time, and opening a database takes 2 ms.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    if installed not in known:
        raise ConfigError(
            f"the database {name} has schema {installed!r}, and this release of Turnout knows none after {HEAD!r}: use "
            "the release that made it, or name a database of Turnout's own"
        )
    config.attributes["connection"] = connection
    with _patient(connection):
        command.upgrade(config, "head")


@contextmanager
def _patient(connection: Connection) -> Iterator[None]:
    """Lets statements take as long as they need, where a silent database would be given up otherwise."""
    if connection.dialect.name != "postgresql":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.patient = True
    try:
        yield
    finally:
        driver.patient = False


def installed(connection: Connection) -> str | None:
    """Returns the database's schema; None if it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(select(_ALEMBIC_VERSION.c.version_num)).scalar()
