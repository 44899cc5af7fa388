"""State URLs, and databases that cannot be used."""

import os
import resource
import socket
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from semver import Version

from postgres_fixture import PASSWORD, PostgresServer
from turnout.errors import ConfigError, TurnoutError, UnavailableError
from turnout.state.database.engine import Database, Location, sqlite_url
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]

WHO = {"actor": "ada", "reason": "it was time"}
V1 = Version.parse("1.0.0")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "cannot be read"),
        ("state.db", "cannot be read"),
        ("postgresql://ada:hunter2@db:port/turnout", "cannot be read"),
        ("mysql://ada:hunter2@db/turnout", "has the scheme 'mysql'"),
        ("postgresql+asyncpg://ada:hunter2@db/turnout", r"has the scheme 'postgresql\+asyncpg'"),
        ("sqlite://", "names a file"),
        ("sqlite:///:memory:", "names a file"),
        ("sqlite://host/state.db", "names a file"),
        ("sqlite:///state.db?mode=ro", "names a file"),
    ],
)
def test_a_url_of_nothing_that_keeps_state_is_refused(url: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        StateStore.open(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_way_to_write_postgresql_means_the_psycopg_driver(scheme: str) -> None:
    location = Location.parse(f"{scheme}://ada@db/turnout?connect_timeout=9")
    assert location.url.drivername == "postgresql+psycopg"
    assert location.url.query["connect_timeout"] == "9"
    assert location.url.query["application_name"] == "turnout"


def test_no_password_is_shown_wherever_the_url_holds_it() -> None:
    location = Location.parse("postgresql://ada:hunter2@db:5433/turnout?password=hunter2&sslpassword=hunter2")
    assert location.name == "postgresql://ada:***@db:5433/turnout"
    assert "hunter2" not in repr(location)


def test_without_the_driver_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'turnout\[postgresql\]'"):
        StateStore.open("postgresql://ada@127.0.0.1/turnout")


@pytest.mark.parametrize("name", ["state.db", "a b/c?d#e%41/ü.db"])
def test_an_sqlite_file_may_have_any_name_and_its_directory_is_made(tmp_path: Path, name: str) -> None:
    file = tmp_path / "new" / name
    with StateStore.open(sqlite_url(file)) as store:
        store.release("magika", V1, **WHO)
    assert file.is_file()


@pytest.mark.parametrize(("before", "after"), [(None, 0o600), (0o644, 0o600), (0o664, 0o660), (0o660, 0o660)])
def test_the_file_is_its_owners_and_what_it_logs_too(tmp_path: Path, before: int | None, after: int) -> None:
    file = tmp_path / "new" / "state.db"
    if before is not None:
        file.parent.mkdir()
        file.touch()
        file.chmod(before)
    with StateStore.open(sqlite_url(file)) as store:
        store.release("magika", V1, **WHO)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert modes == {"state.db": after, "state.db-wal": after, "state.db-shm": after}


def test_sqlite_runs_with_a_write_ahead_log_synced_at_each_commit(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with StateStore.open(sqlite_url(file)) as store:
        store.release("magika", V1, **WHO)
        assert (tmp_path / "state.db-wal").exists()
    with closing(Database(Location.parse(sqlite_url(file)))) as database, database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    # The log is folded into the file by whoever closes last.
    assert not (tmp_path / "state.db-wal").exists()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    file.write_text("a note to myself, long enough to be taken for the header of a database file" * 20)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="its file is not an SQLite database"):
        StateStore.open(sqlite_url(file))
    assert file.read_bytes() == before


def test_a_directory_that_cannot_be_made_is_an_error_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        StateStore.open(sqlite_url(tmp_path / "file" / "state.db"))
    (tmp_path / "directory").mkdir()
    with pytest.raises(ConfigError, match="its file cannot be opened"):
        StateStore.open(sqlite_url(tmp_path / "directory"))


def test_a_file_locked_by_another_program_makes_opening_unavailable(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError, match="lock was held for too long"):
            StateStore.open(sqlite_url(file), lock_wait=0.1)


_FILL = """
import resource, sys
from semver import Version
from turnout.errors import UnavailableError
from turnout.state.store import StateStore
with StateStore.open(sys.argv[1]) as store:
    store.release("magika", Version(1, 0, 0), actor="ada", reason="")
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, resource.RLIM_INFINITY))
    try:
        for patch in range(1, 1000):
            store.release("magika", Version(1, 0, patch), actor="ada", reason="r" * 1000)
    except UnavailableError as error:
        print(error)
    assert store.revision() == patch
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert store.release("magika", Version(1, 0, patch), actor="ada", reason="")
"""


@pytest.mark.slow
def test_a_disk_that_takes_no_more_makes_changes_unavailable_until_it_does(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    url = sqlite_url(tmp_path / "state.db")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _FILL, url], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the state store cannot be used: its file could not be read or written\n"
    assert os.fspath(tmp_path) not in done.stdout


@pytest.mark.slow
def test_a_server_that_stops_makes_the_store_unavailable_until_it_is_back(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    with StateStore.open(url) as store:
        store.release("magika", V1, **WHO)
        postgres_server.stop()
        try:
            for call in (store.revision, store.release_state, lambda: store.release("magika", Version(2, 0, 0), **WHO)):
                with pytest.raises(UnavailableError) as caught:
                    call()
                assert str(caught.value) == "the state store cannot be used: it does not answer"
                assert caught.value.retry_after == 1.0
            with pytest.raises(UnavailableError, match="Connection refused") as caught:
                StateStore.open(url)
            assert PASSWORD not in str(caught.value)
            assert "127.0.0.1" in str(caught.value)
        finally:
            postgres_server.start()
        assert store.revision() == 1
        assert store.release("magika", Version(2, 0, 0), **WHO)


@pytest.mark.slow
def test_a_server_that_stops_in_mid_transaction_leaves_the_earlier_state(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    with StateStore.open(url) as store:
        store.release("magika", V1, **WHO)

    def stop() -> datetime:
        postgres_server.stop()
        return datetime.now(UTC)

    try:
        with StateStore.open(url, now=stop) as store, pytest.raises(UnavailableError):
            store.release("magika", Version(2, 0, 0), **WHO)
    finally:
        postgres_server.start()
    with StateStore.open(url) as store:
        assert store.revision() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "undo", "expected"),
    [
        ("ALTER ROLE clerk PASSWORD 'another'", "", "it refuses this user or password"),
        ("ALTER ROLE clerk NOLOGIN", "ALTER ROLE clerk LOGIN", "it refuses this user or password"),
        ("ALTER ROLE clerk CONNECTION LIMIT 0", "ALTER ROLE clerk CONNECTION LIMIT -1", "it has no connection or"),
        ("ALTER DATABASE {0} RENAME TO {0}_2", "ALTER DATABASE {0}_2 RENAME TO {0}", "it has no database of that name"),
    ],
    ids=["password", "login", "limit", "name"],
)
def test_a_server_that_refuses_connections_is_said_to_do_so_until_it_accepts_them(
    postgres_server: PostgresServer, change: str, undo: str, expected: str
) -> None:
    url = postgres_server.new_database()
    name = url.rpartition("/")[2]
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        try:
            admin.execute("CREATE ROLE clerk LOGIN PASSWORD 'its-password'")
            admin.execute(f"ALTER DATABASE {name} OWNER TO clerk".encode())
            with StateStore.open(url.replace(f"turnout:{PASSWORD}", "clerk:its-password")) as store:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'clerk'")
                while admin.execute("SELECT 1 FROM pg_stat_activity WHERE usename = 'clerk'").fetchone():
                    pass
                admin.execute(change.format(name).encode())
                with pytest.raises(UnavailableError, match=expected) as caught:
                    store.revision()
                assert "clerk" not in str(caught.value)
                admin.execute((undo.format(name) or "ALTER ROLE clerk PASSWORD 'its-password'").encode())
                assert store.revision() == 0
        finally:
            admin.execute(f"DROP DATABASE {name}".encode())
            admin.execute("DROP ROLE clerk")


@pytest.mark.slow
def test_connections_that_lead_to_a_former_primary_are_replaced(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    name = url.rpartition("/")[2]
    with StateStore.open(url) as store, psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        store.release("magika", V1, **WHO)
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        assert store.revision() == 1
        with pytest.raises(UnavailableError, match="it is read-only"):
            store.check()
        with pytest.raises(UnavailableError, match="it is read-only"):
            store.release("magika", Version(2, 0, 0), **WHO)
        admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())  # for new connections
        with pytest.raises(UnavailableError, match="it is read-only"):
            store.check()
        store.check()
        assert store.release("magika", Version(2, 0, 0), **WHO)


@pytest.mark.slow
def test_the_death_of_a_host_is_noticed_while_nothing_is_sent_to_it(postgres_server: PostgresServer) -> None:
    with (
        closing(Database(Location.parse(postgres_server.new_database()))) as database,
        database.reading() as connection,
    ):
        descriptor = connection.connection.dbapi_connection.fileno()
        with socket.socket(fileno=os.dup(descriptor)) as link:
            options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
            idle, interval, count = (link.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle + interval * count <= 30


@pytest.mark.slow
def test_a_refused_login_is_told_without_the_password(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database().replace(PASSWORD, "battery-staple")
    with pytest.raises(TurnoutError, match="password authentication failed") as caught:
        StateStore.open(url)
    assert "battery-staple" not in str(caught.value)


@pytest.mark.slow
def test_a_store_does_not_show_its_password(postgres_server: PostgresServer) -> None:
    with StateStore.open(postgres_server.new_database()) as store:
        assert PASSWORD not in repr(store)
        assert "turnout:***@127.0.0.1" in repr(store)


@pytest.mark.slow
def test_a_user_without_rights_is_an_error_of_configuration(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest-password'")
    with pytest.raises(ConfigError, match="may not do that"):
        StateStore.open(url.replace(f"turnout:{PASSWORD}", "guest:guest-password"))


def test_what_goes_on_longer_than_a_close_waits_leaves_no_connection_open(state_url: str, monkeypatch) -> None:
    monkeypatch.setattr("turnout.state.database.engine._CLOSE_SECONDS", 0.01)
    database = Database(Location.parse(state_url))
    with database.reading() as connection:
        driver = connection.connection.dbapi_connection
        database.close()
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    if isinstance(driver, sqlite3.Connection):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            driver.execute("SELECT 1")
    else:
        assert driver.closed
