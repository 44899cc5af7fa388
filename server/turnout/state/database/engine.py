"""Read and write transactions on SQLite and PostgreSQL: URLs, connection pools, locks and errors."""

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoResultFound
from sqlalchemy.exc import TimeoutError as PoolTimeout

from turnout.errors import ConfigError, TurnoutError, UnavailableError
from turnout.state.database.errors import READ_ONLY, diagnose
from turnout.state.database.notifications import ChangeListener
from turnout.state.database.sqlite_file import SqliteFile

LOCK_WAIT = 10.0
"""Seconds that a writer waits for the previous one. A write takes milliseconds, so only a stuck writer exceeds this."""

_CLOSE_SECONDS = 5.0
"""Maximum time in seconds by which a database that does not respond delays the server's shutdown."""

_DISPOSE_SECONDS = 1.0
"""Maximum time in seconds for which the closing of connections delays it."""

_IDLE_SECONDS = 30.0
"""Seconds without a statement after which PostgreSQL ends a transaction that may write. If a server stands still or its
host dies, PostgreSQL would otherwise keep the locks, and no other server could write, for the two hours of TCP."""

_DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""SQLAlchemy driver names by the scheme of a state URL."""

_NETWORK = {
    # Seconds for each address of the host, and milliseconds after which an unacknowledged connection is given up. A
    # host that is cut off must not block a thread for the two hours that TCP would wait. The keepalives find that out
    # while nothing is sent, as when a host dies before it answers a query, or a listener waits for the next change. A
    # host that acknowledges and does not answer is given up by `postgresql.AnsweringConnection`.
    "connect_timeout": "5",
    "tcp_user_timeout": "15000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "application_name": "turnout",
}
"""Default connection parameters of libpq. The URL can override each."""

_POOL: dict[str, Any] = {"pool_size": 4, "max_overflow": 4, "hide_parameters": True}

_BEGIN = "turnout_begin"
"""Name of the execution option with the statement that begins a transaction."""


def sqlite_url(path: Path) -> str:
    """Returns the URL of the SQLite database in the file `path`."""
    return URL.create("sqlite", database=str(path)).render_as_string()


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed state URL.

    Attributes:
        url: URL for SQLAlchemy, which may contain the password.
        name: URL for display, without the password and the query, which may contain one too.
    """

    url: URL
    name: str

    def __repr__(self) -> str:
        return f"Location({self.name!r})"

    @classmethod
    def parse(cls, text: str) -> "Location":
        """Parses a state URL.

        Raises:
            ConfigError: The text is not a URL, or its database is not supported.
        """
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            # SQLAlchemy's message may quote the text, and so a password.
            raise ConfigError(
                "the state URL cannot be read, expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
            ) from None
        if url.drivername not in _DRIVERS:
            raise ConfigError(
                f"the state URL has the scheme {url.drivername!r}, expected sqlite:///FILE or postgresql://..."
            )
        name = url.set(query={}).render_as_string(hide_password=True)
        url = url.set(drivername=_DRIVERS[url.drivername])
        if url.drivername == "sqlite":
            if url.database in (None, "", ":memory:") or url.host or url.query:
                raise ConfigError(
                    "an SQLite state URL names a file and no more: sqlite:///FILE, with a fourth slash where the path "
                    "is absolute"
                )
            url = url.set(database=str(Path(url.database or "").absolute()))  # a check of the file needs a file URL
        else:
            url = url.update_query_dict({key: value for key, value in _NETWORK.items() if key not in url.query})
        return cls(url, name)


class Database:
    """An open database. Its methods can be called from any thread.

    Attributes:
        name: URL for display and logs, without secrets.
    """

    def __init__(self, location: Location, *, lock_wait: float = LOCK_WAIT) -> None:
        """Opens the database, and creates the directory of an SQLite file. Other writers are awaited for `lock_wait` s.

        Raises:
            ConfigError: The driver is not installed, or the database cannot be used as it is set up.
            UnavailableError: The database does not respond, or is locked.
        """
        self.name = location.name
        self._url = location.url
        self._change = threading.Condition()
        self._running = 0
        self._closed = False
        self._file: SqliteFile | None = None
        self._listener: ChangeListener | None = None
        self._mark: tuple[int, str] | None = None
        open_ = _open_sqlite if location.url.drivername == "sqlite" else _open_postgresql
        try:
            self._reads, self._writes = open_(location.url, lock_wait)
            if location.url.drivername == "sqlite":
                self._file = SqliteFile(Path(location.url.database or ""))
        except ImportError:
            raise ConfigError("a PostgreSQL state URL needs its driver: pip install 'turnout[postgresql]'") from None
        except OSError as error:
            raise ConfigError(f"the directory of {self.name} cannot be made: {error.strerror}") from error
        except (sqlite3.Error, DBAPIError) as error:
            if explained := self._explain(error, starting=True):
                raise explained from error
            raise

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    @contextmanager
    def reading(self, *, starting: bool = False) -> Iterator[Connection]:
        """Opens a transaction that reads a consistent snapshot of the database.

        `starting` while the server starts or a command runs: no remote client sees an error then, so that its message
        may say where the database is.

        Raises:
            UnavailableError: The database cannot be used now.
            ConfigError: With `starting`: the database cannot be used as it is set up.
        """
        try:
            with self._transaction(self._reads, starting=starting) as connection:
                yield connection
        except (ValueError, KeyError, TypeError) as error:
            # Every row was checked when it was written, so the file must have been damaged.
            raise UnavailableError(
                "the state store cannot be used: rows of it cannot be read", retry_after=1.0
            ) from error

    @contextmanager
    def writing(self, *, starting: bool = False) -> Iterator[Connection]:
        """Opens a transaction that may change the database. It is committed at the end, or rolled back on an exception.

        `starting` as in `reading`.

        On SQLite, it is the only writer from its beginning. On PostgreSQL, each statement sees what was committed
        before it, so the rows on which a decision is based must be locked first.

        Raises:
            UnavailableError: The database cannot be used now, or another writer held its lock for too long.
            ConfigError: With `starting`: the database cannot be used as it is set up.
        """
        with self._transaction(self._writes, starting=starting) as connection:
            yield connection

    def mark(self, revision: int, digest: str) -> None:
        """Saves an event of the log that was read. If the file is replaced, the new one must contain this event."""
        self._mark = (revision, digest)

    def check(self) -> None:
        """Checks that the database can be read and is not read-only and, if it is a file, that its contents are intact.

        Raises:
            UnavailableError: The check failed; the message says why and what to do.
        """
        if self._file is not None:
            self._follow_file(self._file)
            _refuse(self._file.check())
            return
        with self.reading() as connection:
            read_only = connection.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on"
        if read_only:
            # After a failover, connections through a proxy may still lead to the former primary.
            self._writes.dispose()
            raise UnavailableError(f"the state store cannot be used: {READ_ONLY.cause}", retry_after=1.0)

    def _follow_file(self, file: SqliteFile) -> None:
        """Switches to a file that has replaced the open one, if it contains the log so far."""
        if not file.replaced or self._mark is None:
            return
        with self._change:
            if file.replaced and file.holds(*self._mark):
                self._writes.dispose()  # also closes readers' connections, which are in the same pool
                file.renew()

    def listen(self, heard: Callable[[], None]) -> None:
        """Calls `heard` in a thread at each change that the database announces. It must be quick and never raise."""
        self._listener = ChangeListener(self._writes, heard)

    def close(self) -> None:
        """Waits a limited time for running transactions, then closes. New transactions are refused."""
        if self._listener is not None:
            self._listener.close()
        with self._change:
            self._closed = True
            self._change.wait_for(lambda: not self._running, _CLOSE_SECONDS)
        # To close a file or a connection waits for its file system or server, which may hang. A daemon thread, so that
        # the process does not wait for it at its end.
        disposing = threading.Thread(target=self._writes.pool.dispose, name="close state store", daemon=True)
        disposing.start()
        disposing.join(_DISPOSE_SECONDS)

    @contextmanager
    def _transaction(self, engine: Engine, *, starting: bool) -> Iterator[Connection]:
        with self._change:
            if self._closed:
                raise UnavailableError("the state store is closed")
            self._running += 1
        try:
            if self._file is not None:
                self._follow_file(self._file)
                _refuse(self._file.fault())
            with engine.begin() as connection:
                yield connection
                if self._file is not None:
                    # Otherwise the change would be reported as recorded, in a file that is lost.
                    _refuse(self._file.fault(begun=True))
        except PoolTimeout as error:
            raise UnavailableError("the state store is overloaded", retry_after=1.0) from error
        except DBAPIError as error:
            if explained := self._explain(error, starting=starting):
                raise explained from error
            raise
        except NoResultFound as error:
            raise UnavailableError("the state store cannot be used: rows of it are missing", retry_after=1.0) from error
        finally:
            with self._change:
                self._running -= 1
                last = self._closed and not self._running
                self._change.notify_all()
            if last:  # `close` stopped waiting for this transaction
                self._writes.pool.dispose()

    def _explain(self, error: sqlite3.Error | DBAPIError, *, starting: bool) -> TurnoutError | None:
        """Returns the error to raise instead of `error`; None if it is a bug in Turnout."""
        driver: BaseException = error
        lost = False
        if isinstance(error, DBAPIError):
            driver = error.orig or error
            # If connecting fails, the driver's error has no code, and SQLAlchemy's no statement.
            lost = error.connection_invalidated or error.statement is None
        fault = diagnose(driver, lost=lost)
        if fault is None:
            return None
        if fault.damaged and self._file is not None:
            self._file.damaged()  # else changes that read intact pages only would succeed
        if not starting:
            return UnavailableError(f"the state store cannot be used: {fault.cause}", retry_after=1.0)
        reason = str(driver).strip().partition("\n")[0]
        for secret in (self._url.password, self._url.query.get("password"), self._url.query.get("sslpassword")):
            if secret:
                reason = reason.replace(str(secret), "***")
        message = f"the state store {self.name} cannot be used: {fault.cause} ({reason}){fault.advice}"
        return ConfigError(message) if fault.lasting else UnavailableError(message, retry_after=1.0)


def _refuse(fault: str) -> None:
    if fault:
        raise UnavailableError(f"the state store cannot be used: {fault}", retry_after=1.0)


def _open_sqlite(url: URL, lock_wait: float) -> tuple[Engine, Engine]:
    """Returns engines that read and write the file of `url`, which is created if needed and put into WAL mode."""
    assert url.database
    file = Path(url.database)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _keep_private(file)
    _enter_wal(file, lock_wait)
    engine = create_engine(url, **_POOL, pool_timeout=lock_wait, connect_args={"timeout": lock_wait})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        # Transactions are begun below: the driver of Python 3.11 would not begin one before a SELECT.
        connection.isolation_level = None
        # FULL syncs the log at each commit, so an acknowledged change survives a power failure. NORMAL may lose the
        # last ones, so that a release would be undone. FULL costs 0.5 ms per change (1.2 ms instead of 0.6).
        connection.execute("PRAGMA synchronous = FULL").close()

    event.listen(engine, "begin", _begin)
    # IMMEDIATE takes the write lock at once. A transaction that reads first and writes later fails if another one
    # wrote in between, and waiting does not help.
    return engine.execution_options(**{_BEGIN: "BEGIN"}), engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})


def _keep_private(file: Path) -> None:
    """Creates the file if needed, readable by its owner only. SQLite gives its log and index the same permissions.

    Access for all users, which earlier releases allowed, is removed; group access is left to the owner. Errors are
    ignored: either SQLite cannot open the file and reports it, or the file belongs to another user. An existing file is
    not opened, because closing it would release all locks that this process has on it; another process would then
    assume that it is the last one and remove the write-ahead log.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(file, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o007:
            file.chmod(0o600 if mode & 0o070 == 0o040 else mode & ~0o007)


def _enter_wal(file: Path, lock_wait: float) -> None:
    """Puts the database in `file` into WAL mode, in which readers and a writer do not block one another."""
    deadline = time.monotonic() + lock_wait
    with closing(sqlite3.connect(file, timeout=lock_wait, isolation_level=None)) as connection:
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                # If several connections change the mode at once, SQLite fails all but one without waiting.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
    if mode != "wal":
        raise ConfigError(
            "the file system of the SQLite state store cannot share memory between processes (a network file system?): "
            "keep it on a local disk, or use PostgreSQL"
        )


def _open_postgresql(url: URL, lock_wait: float) -> tuple[Engine, Engine]:
    """Returns engines that read and write the database of `url`, after a test connection."""
    from turnout.state.database.postgresql import AnsweringConnection  # its package is optional

    # A connection that died while idle is replaced transparently (`pool_pre_ping`). A pooler such as PgBouncer may run
    # statements on other connections than they were prepared on (`prepare_threshold`).
    engine = create_engine(
        url, **_POOL, pool_timeout=lock_wait, pool_pre_ping=True, connect_args={"prepare_threshold": None}
    )
    event.listen(
        engine,
        "do_connect",
        lambda _dialect, _record, arguments, options: AnsweringConnection.connect(*arguments, **options),
    )
    event.listen(engine, "begin", _begin)
    reads = engine.execution_options(isolation_level="REPEATABLE READ")
    limits = {"lock_timeout": lock_wait, "idle_in_transaction_session_timeout": _IDLE_SECONDS}
    begin = "; ".join(f"SET LOCAL {name} = {max(1, round(seconds * 1000))}" for name, seconds in limits.items())
    writes = engine.execution_options(isolation_level="READ COMMITTED", **{_BEGIN: begin})
    try:
        with reads.begin():
            pass
    except DBAPIError:
        engine.dispose()
        raise
    return reads, writes


def _begin(connection: Connection) -> None:
    options: dict[str, Any] = dict(connection.get_execution_options())
    if statement := options.get(_BEGIN):
        connection.exec_driver_sql(statement)
