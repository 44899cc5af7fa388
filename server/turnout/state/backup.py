"""Backups of the state store. A backup is one SQLite file, for any database.

An SQLite store is copied by SQLite's backup API, as a consistent snapshot, while servers read and write it. A
PostgreSQL store is read table by table in one transaction. A backup can be restored into either database, so it also
serves to move from one to the other.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, delete, insert, inspect, select

from turnout.errors import AlreadyExistsError, ChangeRefused, ConfigError, NotFoundError
from turnout.registry.storage.files import sync_directory
from turnout.state import audit, servers
from turnout.state.database import schema
from turnout.state.database.engine import Database, Location, sqlite_url
from turnout.state.database.migrations import HEAD, installed, upgrade

_ROWS = 1000
"""Number of rows written at once."""

_PASSING = frozenset({"servers", "rollout_counts"})
"""Tables that running servers use to exchange data. They are emptied by a restore, since they describe past servers."""


@dataclass(frozen=True, slots=True)
class Backup:
    """The contents of a backup.

    Attributes:
        events: Number of events in the log.
        models: Number of models that the events concern.
        revision: Number of the latest change; 0 before the first.
        size_bytes: Size of the file in bytes.
    """

    schema: str
    events: int
    models: int
    revision: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore.

    Attributes:
        before: File with the previous state; None if there was none.
        differences: Differences between the backup's tables and its log, as sentences.
    """

    backup: Backup
    before: Path | None
    differences: tuple[str, ...]


def back_up(state_url: str, file: Path) -> Backup:
    """Copies a consistent snapshot of a state store into `file`. Servers may run meanwhile.

    Args:
        state_url: URL of the store. It is only read, so a store of an earlier release is not migrated.
        file: A new file. It is created atomically, and only its owner may read it.

    Raises:
        AlreadyExistsError: `file` exists.
        NotFoundError: The store does not exist.
        ConfigError: The store or the file cannot be used, or a PostgreSQL store has another release's schema.
        UnavailableError: The database does not respond.
    """
    location = Location.parse(state_url)
    with _new_file(file) as part:
        if location.url.drivername == "sqlite":
            _copy_sqlite(Path(location.url.database or ""), part)
        else:
            _copy_out(location, part)
        return look(part)


def look(file: Path) -> Backup:
    """Reads the whole of a backup to check its integrity, and returns a summary.

    Raises:
        NotFoundError: The file does not exist.
        ConfigError: The file is not a backup, or it is damaged.
    """
    if not file.is_file():
        raise NotFoundError(f"there is no file {file}")
    try:
        # `immutable`: a backup is one file, and reading it must not create others next to it.
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as connection:
            (sound,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if sound != "ok":
                raise ConfigError(f"{file} is damaged: {sound}")
            (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            events, models = connection.execute("SELECT count(*), count(DISTINCT model) FROM events").fetchone()
            (revision,) = connection.execute("SELECT number FROM revision").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise ConfigError(f"{file} is not a backup of a state store ({error})") from error
    return Backup(str(found), int(events), int(models), int(revision), file.stat().st_size)


def restore(file: Path, state_url: str, *, replace: bool = False, alive_seconds: float = 20.0) -> Restored:
    """Fills a state store from a backup, migrated to this release's schema. All servers must have stopped.

    Args:
        file: The backup, which is not changed.
        state_url: URL of the store: a new SQLite file, an empty PostgreSQL database, or with `replace` an existing
            SQLite store.
        replace: Whether to replace the contents of an SQLite store, which are kept in a file next to it.
        alive_seconds: A server that has reported within this many seconds counts as running.

    Raises:
        NotFoundError: The file does not exist.
        ConfigError: The file is not a backup, is damaged or of a later release, or its log was tampered with; or the
            store cannot be used.
        ChangeRefused: The store has contents that are not to be replaced, or a server runs on it.
        UnavailableError: The database does not respond.
    """
    look(file)
    location = Location.parse(state_url)
    with tempfile.TemporaryDirectory(prefix="turnout-restore-") as scratch:
        copy = Path(scratch) / "state.db"
        _copy_sqlite(file, copy)
        differences = _bring_up(copy, file)
        before = None
        if location.url.drivername == "sqlite":
            before = _put_sqlite(copy, Path(location.url.database or ""), location, replace, alive_seconds)
        else:
            _put_postgresql(copy, location, replace)
        return Restored(look(copy), before, differences)


def _bring_up(copy: Path, file: Path) -> tuple[str, ...]:
    """Migrates a copy of a backup to this release's schema, checks its log, and removes the data of past servers."""
    database = Database(Location.parse(sqlite_url(copy)))
    with closing(database):
        upgrade(database)
        with database.reading(starting=True) as connection:
            found = audit.read(connection, None)
        for fault in found.chain.faults:
            raise ConfigError(
                f"the log in {file} is not what was written (event {fault.event} {fault.what}): take an earlier backup"
            )
        with database.writing(starting=True) as connection:
            for table in schema.METADATA.sorted_tables:
                if table.name in _PASSING:
                    connection.execute(delete(table))
    _leave_wal(copy)
    return found.differences


def _put_sqlite(copy: Path, target: Path, location: Location, replace: bool, alive_seconds: float) -> Path | None:
    before = None
    if target.exists() and target.stat().st_size:
        with closing(Database(location)) as database, database.reading(starting=True) as connection:
            running = _running(connection, alive_seconds)
        if running:
            raise ChangeRefused(
                f"servers run on {location.name}: {', '.join(running)}; stop them first (one that was killed counts as "
                f"running for {alive_seconds:.0f} s more)"
            )
        if not replace:
            raise ChangeRefused(f"{location.name} already contains a state: --replace keeps it in a file beside it")
        before = _name_of_old(target)
        with _new_file(before) as part:
            _copy_sqlite(target, part)
    with closing(Database(location)):  # creates the file, readable by its owner only
        _copy_sqlite(copy, target)
    return before


def _put_postgresql(copy: Path, location: Location, replace: bool) -> None:
    if replace:
        raise ChangeRefused(
            "a PostgreSQL database is not replaced: make an empty one (createdb), restore into that, and have `state` "
            "name it"
        )
    source = Database(Location.parse(sqlite_url(copy)))
    with closing(source), closing(Database(location)) as target:
        with target.reading(starting=True) as connection:
            if inspect(connection).get_table_names():
                raise ChangeRefused(f"{location.name} holds tables already: restore into an empty database")
        upgrade(target)
        with source.reading(starting=True) as reads, target.writing(starting=True) as writes:
            _copy_tables(reads, writes)
    _leave_wal(copy)


def _copy_out(location: Location, part: Path) -> None:
    """Copies a PostgreSQL store into an SQLite file."""
    with closing(Database(location)) as source, source.reading(starting=True) as reads:
        found = installed(reads)
        if found is None:
            raise NotFoundError(f"there is no state store in {location.name}")
        if found != HEAD:
            raise ConfigError(
                f"{location.name} has schema {found!r}, and this release reads {HEAD!r} only: back it up with the "
                "release that runs on it, or with pg_dump"
            )
        with closing(Database(Location.parse(sqlite_url(part)))) as target:
            upgrade(target)
            with target.writing(starting=True) as writes:
                _copy_tables(reads, writes)
    _leave_wal(part)


def _copy_tables(reads: Connection, writes: Connection) -> None:
    """Copies every row, oldest first, since triggers only allow appending to the log."""
    writes.execute(delete(schema.revision))
    for table in schema.METADATA.sorted_tables:
        rows = reads.execution_options(yield_per=_ROWS).execute(select(table).order_by(*table.primary_key.columns))
        for part in rows.mappings().partitions():
            writes.execute(insert(table), [dict(row) for row in part])


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copies a database with SQLite's backup API, which takes a consistent snapshot and blocks no writer.

    Raises:
        NotFoundError: The file does not exist.
        ConfigError: The file cannot be read, or the copy cannot be written.
    """
    if not source.is_file():
        raise NotFoundError(f"there is no state store at {source}")
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)) as reads,
            closing(sqlite3.connect(target, timeout=10.0)) as writes,
        ):
            reads.backup(writes)
    except sqlite3.Error as error:
        raise ConfigError(f"{source} cannot be copied to {target}: {error}") from error
    _leave_wal(target)


def _leave_wal(file: Path) -> None:
    """Takes an unused copy out of WAL mode, so that it is a single file. Reading it would otherwise create two more."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()


def _running(connection: Connection, alive_seconds: float) -> list[str]:
    if not inspect(connection).has_table(schema.servers.name):
        return []
    snapshot = servers.servers_snapshot(connection, "")
    return [one.name for one in snapshot.servers if one.alive(snapshot.now, alive_seconds)]


def _name_of_old(target: Path) -> Path:
    names = (target.with_name(f"{target.name}.before-restore-{number}") for number in range(1, 10_000))
    return next(path for path in names if not path.exists())


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """Yields a private temporary file, which becomes `file` at the end, or is deleted after an error."""
    if file.exists():
        raise AlreadyExistsError(f"{file} exists: name a new file")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    part = Path(name)
    try:
        yield part
        os.fsync(descriptor)
        os.link(part, file)  # not a rename, which would replace a file created in the meantime
        sync_directory(file.parent)
    except FileExistsError:
        raise AlreadyExistsError(f"{file} exists: name a new file") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)
