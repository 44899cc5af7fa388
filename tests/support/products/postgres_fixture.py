"""A private PostgreSQL server for tests: Debian's, in its own directory, on a free port of 127.0.0.1.

A test module that needs it sets `pytest_plugins = ["postgres_fixture"]`, so that all modules share one server.
PYTEST_DONT_REWRITE: modules import names from here before the plugin is registered, and there is no assert to rewrite.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from debian import missing
from ports import free_port

PASSWORD = "correct-horse"
_USER = "turnout"
_START_BOUND = 60.0  # seconds; takes 1 to 2 on two busy cores


class PostgresServer:
    """A database cluster, and its server while it is started."""

    def __init__(self, binaries: Path, directory: Path, run_as: str | None) -> None:
        self._binaries = binaries
        self._data = directory / "data"
        self._sockets = directory
        self._run_as = run_as
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self.port = free_port()
        password_file = directory / "password"
        password_file.write_text(PASSWORD)
        if run_as is not None:
            account = pwd.getpwnam(run_as)
            for path in (directory, password_file):
                os.chown(path, account.pw_uid, account.pw_gid)
        initdb: list[str | Path] = [*self._account(), binaries / "initdb", "--no-sync", "--username", _USER]
        initdb += ["--auth", "scram-sha-256"]
        initdb += ["--pwfile", password_file, "--encoding", "UTF8", "--locale", "C", "--pgdata", self._data]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=directory)

    def start(self) -> None:
        """Starts the server, and returns once it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._sockets),
            "fsync": "off",  # these tests kill clients, not the machine
            "logging_collector": "off",
        }
        command: list[str | Path] = [*self._account(), self._binaries / "postgres", "-D", self._data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + _START_BOUND
        self._process = None
        while True:
            if self._process is None or self._process.poll() is not None:  # it ends if its port is taken for a moment
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._sockets
                    )
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    message = f"{error}; exit status {self._process.poll()}; {self._log.read_text()}"
                    raise RuntimeError(f"PostgreSQL did not start: {message}") from None
                time.sleep(0.2)

    def stop(self) -> None:
        """Stops the server. Its clients' connections are closed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            self._process.wait(timeout=_START_BOUND)
            self._process = None

    def url(self, database: str) -> str:
        """Returns the URL of a database."""
        return f"postgresql://{_USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Creates an empty database and returns its URL."""
        name = f"state_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def _account(self) -> list[str]:
        """Returns the beginning of a command that runs the rest as another user.

        With `user=`, subprocess forks instead of calling vfork. A fork runs the handlers that libraries registered for
        it, which occasionally crashes a test process with many threads.
        """
        if self._run_as is None:
            return []
        return ["setpriv", f"--reuid={self._run_as}", f"--regid={self._run_as}", "--clear-groups", "--"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server. A test that stops it must start it again."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if not found:
        missing("PostgreSQL is not installed", "postgresql")
    run_as = None
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root. Debian's package creates this account.
        run_as = "postgres"
        try:
            pwd.getpwnam(run_as)
        except KeyError:
            missing("there is no account 'postgres' to run PostgreSQL as", "postgresql")
    # Not pytest's tmp_path: only its owner may enter that, and a socket's path is limited to 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="turnout-pg-"))
    try:
        server = PostgresServer(found[-1].parent, directory, run_as)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/state.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()
