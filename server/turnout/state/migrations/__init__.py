"""Brings a database to the schema of this release, once, however many processes open it at the same time.

A new schema is a new file in `versions/`, its `revision` the next number, and `HEAD` set to it. There is no way back:
an older release refuses a newer schema, and a backup is what restores an older one.
"""

import threading
from pathlib import Path

from sqlalchemy import Connection, column, func, inspect, select, table

from turnout.errors import ConfigError
from turnout.state.engine import Database
from turnout.state.schema import METADATA

HEAD = "0006"
"""The schema of this release. Written here so that a database which has it is opened without importing alembic."""

_ADVISORY_LOCK = 0x7475726E6F7574
"""Key of PostgreSQL's advisory lock under which a schema changes: `turnout` in ASCII."""

_ALEMBIC = threading.Lock()
"""`alembic.op` and `alembic.context` speak of one migration in a process, so two threads must take turns."""


def upgrade(database: Database) -> None:
    """Brings `database` to `HEAD`; does nothing where it is there already.

    Raises:
        ConfigError: Its schema is not one that this release knows, or its tables are another program's.
        Unavailable: Another process held the lock for too long, or the database does not answer.
    """
    with database.reading(starting=True) as connection:
        if _installed(connection) == HEAD:
            return
    # Imported here: it takes 0.1 s where opening takes 2 ms, and all but the first open of a database do without.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with _ALEMBIC, database.writing(starting=True) as connection:
        if connection.dialect.name == "postgresql":
            # SQLite's BEGIN IMMEDIATE is such a lock already.
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        installed = _installed(connection)
        if installed == HEAD:
            return
        known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        if installed is not None and installed not in known:
            raise ConfigError(
                f"the database {database.name} has schema {installed!r}, and this release of Turnout knows none after "
                f"{HEAD!r}: use the release that made it, or name a database of Turnout's own"
            )
        if installed is None and (taken := METADATA.tables.keys() & inspect(connection).get_table_names()):
            raise ConfigError(
                f"the database {database.name} holds tables of another program ({', '.join(sorted(taken))}): name a "
                "database of Turnout's own"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _installed(connection: Connection) -> str | None:
    """Returns the schema that the database has; None where it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(select(column("version_num")).select_from(table("alembic_version"))).scalar()
