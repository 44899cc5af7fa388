"""Brings a database to the schema of this release, once, however many processes open it at the same time.

A new schema is a new file in `versions/`, its `revision` the next number, and `HEAD` set to it. There is no way back:
an older release refuses a newer schema, and a backup is what restores an older one. A database with no tables gets the
schema at once from `turnout.state.database.schema` and `turnout.state.database.triggers`; a test compares that with
what the files make.
"""

import threading
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, func, insert, inspect, select

from turnout.errors import ConfigError
from turnout.state.database.engine import Database
from turnout.state.database.schema import METADATA, revision
from turnout.state.database.triggers import triggers

HEAD = "0008"
"""The schema of this release. Written here so that a database which has it is opened without importing alembic."""

_ADVISORY_LOCK = 0x7475726E6F7574
"""Key of PostgreSQL's advisory lock under which a schema changes: `turnout` in ASCII."""

_UPGRADE = threading.Lock()
"""`alembic.op` and `alembic.context` speak of one migration in a process, so two threads must take turns."""

_ALEMBIC_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""What alembic notes the schema in, as it makes it itself."""


def upgrade(database: Database) -> None:
    """Brings `database` to `HEAD`; does nothing if it is there already.

    Raises:
        ConfigError: Its schema is not one that this release knows, or its tables are another program's.
        UnavailableError: Another process held the lock for too long, or the database does not answer.
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
    """Makes the schema of this release in the database called `name`, which has none.

    It takes 6 ms of CPU. The files of `versions/`, one after the other, took 45, and the import of alembic 300.

    Raises:
        ConfigError: Its tables are another program's.
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
    """Brings the database called `name` from the schema `installed` to that of this release.

    Raises:
        ConfigError: `installed` is not a schema that this release knows.
    """
    # Imported here: it takes 0.3 s of CPU where opening takes 2 ms.
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
    command.upgrade(config, "head")


def installed(connection: Connection) -> str | None:
    """Returns the schema that the database has; None if it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(select(_ALEMBIC_VERSION.c.version_num)).scalar()
