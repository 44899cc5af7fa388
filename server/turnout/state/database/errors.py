"""Translates errors of database drivers for operators. The driver's own message is not passed on."""

import re
import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatabaseFault:
    """Why the database cannot be used.

    Attributes:
        cause: What is wrong, to follow "the state store cannot be used:".
        lasting: Whether only a change of the setup can fix it. At startup, it is then a configuration error.
        advice: What to do about it, to follow the cause when the server starts.
        damaged: Whether the file has other contents than SQLite wrote.
    """

    cause: str
    lasting: bool = False
    advice: str = ""
    damaged: bool = False


_LOCKED = DatabaseFault("its lock was held for too long by another writer")
_FULL = DatabaseFault("its disk is full")
READ_ONLY = DatabaseFault("it is read-only", lasting=True)
_SILENT = DatabaseFault("it does not answer")
_RESTORE = (
    ": restore a backup of it, or move it away and start anew, with every version a candidate again (`turnout release`)"
)
_NO_TABLES = DatabaseFault("its tables are gone", lasting=True, advice=_RESTORE)

_SQLITE = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: DatabaseFault("its file could not be read or written"),
    sqlite3.SQLITE_CANTOPEN: DatabaseFault("its file cannot be opened", lasting=True),
    sqlite3.SQLITE_PERM: DatabaseFault("its file may not be used by this user", lasting=True),
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_CORRUPT: DatabaseFault("its file is damaged", lasting=True, advice=_RESTORE, damaged=True),
    sqlite3.SQLITE_NOTADB: DatabaseFault(
        "its file is not an SQLite database", lasting=True, advice=_RESTORE, damaged=True
    ),
}

_POSTGRESQL = {
    "08": _SILENT,
    "25006": READ_ONLY,
    "28": DatabaseFault("it refuses this user or password", lasting=True),
    "3D000": DatabaseFault("it has no database of that name", lasting=True),
    "40001": _LOCKED,
    "40P01": _LOCKED,
    "3F000": _NO_TABLES,
    "42P01": _NO_TABLES,
    "42501": DatabaseFault("this user may not do that in it", lasting=True),
    "53": DatabaseFault("it has no connection or memory left"),
    "53100": _FULL,
    "55P03": _LOCKED,
    "57P": DatabaseFault("it is starting or shutting down"),
    "58": DatabaseFault("its files could not be read or written"),
}
"""Faults by SQLSTATE, or by the prefix of a class of them. The longest matching prefix is used."""


_REFUSALS = (
    (re.compile(r"authentication failed|no pg_hba\.conf entry|role .* does not exist|not permitted to log in"), "28"),
    (re.compile(r"database .* does not exist"), "3D000"),
    (re.compile(r"too many (clients|connections)|remaining connection slots"), "53"),
    (re.compile(r"the database system is "), "57P"),
)
"""SQLSTATEs by what PostgreSQL says when it refuses a connection, for which libpq passes on the text only."""


def diagnose(error: BaseException, *, lost: bool) -> DatabaseFault | None:
    """Translates a driver's `error`; returns None if it is a bug in Turnout and not a fault of the database.

    The error is the original one of sqlite3 or psycopg. A connection also counts as `lost` if it was never made.
    """
    if isinstance(error, sqlite3.Error):
        # The low byte is the primary code; SQLite 3.40 has 30 of them and some 70 extended ones.
        if str(error).startswith("no such table"):  # SQLite has no code for this
            return _NO_TABLES
        return _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    state = getattr(error, "sqlstate", None) or _refusal(str(error))
    fitting = [start for start in _POSTGRESQL if state.startswith(start)]
    if fitting:
        return _POSTGRESQL[max(fitting, key=len)]
    return _SILENT if lost else None


def _refusal(message: str) -> str:
    """Returns the SQLSTATE of a refused connection; "" if the message is not one of these, in English."""
    found = (state for said, state in _REFUSALS if "FATAL:" in message and said.search(message))
    return next(found, "")
