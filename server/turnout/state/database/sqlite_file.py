"""Detects that the file of an SQLite state store was removed, replaced or damaged, or became read-only.

A process that has the file open continues to read and write it after it was removed or replaced. Changes then
"succeed" in a file that no other process sees and that is lost at the next start. So each transaction checks the file
names on disk before it begins and before it commits.

The file is never opened here except through SQLite: POSIX releases all of a process's locks on a file as soon as the
process closes any of its descriptors.
"""

import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

_CHECK_SECONDS = 1.0
"""Minimum time in seconds between two checks of the contents. A check of 20 MB took 60 ms."""
_CHECK_SHARE = 0.02
"""Maximum share of the time that checks of the contents may take."""

_LEAST_PAGE = 512
"""Least size of a page of SQLite in bytes; every other is a multiple of it."""

GONE = "its file is gone: put it back, or stop the servers and restore a backup"
REPLACED = (
    "its file was replaced by one that does not continue the log so far: put the right one back, or stop the "
    "servers, remove its -wal and -shm files, and start them to go on with this one"
)
CUT = "its file was cut off: stop the servers and restore a backup"
DAMAGED = "its file is damaged: stop the servers and restore a backup"
LOG_GONE = "its -wal or -shm file was removed while it was open: restart the servers"
READ_ONLY = "its file or directory is read-only: changes cannot be recorded"


class SqliteFile:
    """The file of an open database. Its methods can be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Accepts the file in its present state.

        Raises:
            OSError: The file does not exist.
        """
        self.path = path
        self._companions = [Path(f"{path}-wal"), Path(f"{path}-shm")]
        self._lock = threading.Lock()
        self._checked: tuple[int, int] | None = None
        self._check_after = 0.0
        self._damage = ""
        self.renew()

    def renew(self) -> None:
        """Accepts the file in its present state.

        Raises:
            OSError: The file does not exist.
        """
        with self._lock:
            status = self.path.stat()
            self._identity, self._size = _identity(status), status.st_size
            self._opened: dict[Path, tuple[int, int]] = {}
            self._checked, self._check_after, self._damage = None, 0.0, ""

    @property
    def replaced(self) -> bool:
        """Whether another file now has the name."""
        return _identity_at(self.path) not in (None, self._identity)

    def damaged(self) -> None:
        """Records that a transaction met damaged contents, until a check finds them intact."""
        with self._lock:
            self._damage, self._checked = DAMAGED, None

    def fault(self, *, begun: bool = False) -> str:
        """Returns a description of what is wrong with the files on disk; "" if nothing is.

        Once a transaction has read (`begun`), the write-ahead log and its index must exist. If the file became smaller,
        its contents are checked at once, because a transaction may use none of the pages that were cut off.
        """
        try:
            status = self.path.stat()
        except OSError:
            return GONE
        if _identity(status) != self._identity:
            return REPLACED
        shrunk = status.st_size < self._size
        if status.st_size == 0 or (shrunk and status.st_size % _LEAST_PAGE):
            return CUT
        if shrunk and not self._damage:
            with self._lock:
                self._check_contents(status)
        if not self._damage:
            self._size = status.st_size
        return self._damage or (self._companion_fault() if begun else "")

    def _companion_fault(self) -> str:
        for path in self._companions:
            found = _identity_at(path)
            if found is None or self._opened.setdefault(path, found) != found:
                return LOG_GONE
        return ""

    def check(self) -> str:
        """Also checks that the file is writable, and its contents if they may have changed. Returns as `fault`."""
        if fault := self.fault():
            if fault != self._damage:
                return fault
        elif not (os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)):
            return READ_ONLY
        with self._lock:
            status = self.path.stat()
            if _stamp(status) != self._checked and time.monotonic() >= self._check_after:
                self._check_contents(status)
        return self._damage

    def _check_contents(self, status: os.stat_result) -> None:
        """Checks the contents of the file, which had this status. The caller holds the lock."""
        began = time.monotonic()
        self._damage = self._content_fault()
        self._checked = _stamp(status)
        took = time.monotonic() - began
        self._check_after = time.monotonic() + max(_CHECK_SECONDS, took / _CHECK_SHARE)

    def _content_fault(self) -> str:
        try:
            with closing(self._connection()) as connection:
                (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
            return DAMAGED if damaged else self._damage
        return "" if result == "ok" else DAMAGED

    def _connection(self) -> sqlite3.Connection:
        """Returns a connection of its own, since those of the pool would show cached pages."""
        return sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=1.0)

    def holds(self, revision: int, digest: str) -> bool:
        """Returns whether the file that now has the name contains an event of the log.

        Returns False if it is next to the write-ahead log of the open file, since SQLite would combine the two.
        """
        if any(_identity_at(path) == opened for path, opened in self._opened.items()):
            return False
        try:
            with closing(self._connection()) as connection:
                row = connection.execute("SELECT hash FROM events WHERE id = ?", (revision,)).fetchone()
                (intact,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error:
            return False
        return row is not None and row[0] == digest and intact == "ok"


def _identity_at(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(path.stat())
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size
