"""Adapts a test process to a small machine shared by many tests: longer timeouts, and sharing of costly objects.

Tests of a time limit set it themselves. Everything here is for the others.
"""

import functools
import importlib.util
import os
import ssl
import sys
from collections.abc import MutableMapping
from typing import Any

import httpx
import sqlalchemy
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from turnout.host.cpu import KEEP_PRIORITY
from turnout.rollout.engine.operators import commands, releases
from turnout_client import AsyncClient, Client

PATIENCE_SECONDS = 60.0
"""Default time within which something must answer, in seconds."""


def be_patient() -> None:
    """Sets timeouts that suit programs that share their cores with many others."""
    for part in ("connect", "read", "write", "pool"):
        setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, PATIENCE_SECONDS)  # 5 s
    for kind in (Client, AsyncClient):
        kind.__init__.__kwdefaults__["timeout"] = PATIENCE_SECONDS  # 10 s
    # A command gives up on a store or repository after three seconds, which a busy disk may take; a rollback after one.
    commands._COMMAND_WAIT = releases._ROLLBACK_WAIT = releases._REPOSITORY_WAIT = PATIENCE_SECONDS / 3
    commands.RolloutCommands.operate.__defaults__ = (commands._COMMAND_WAIT,)
    # Low-priority work of servers would wait for minutes.
    os.environ[KEEP_PRIORITY] = "1"


def share_what_is_costly() -> None:
    """Shares objects in this process that each client and each store would otherwise create."""
    _share_authorities()
    _share_compiled_statements()
    _remember_what_is_not_installed()


def _share_authorities() -> None:
    # httpx reads the system's CA certificates for each client: 25 ms of CPU, and tests create hundreds of clients.
    make = httpx._transports.default.create_ssl_context
    authorities = functools.cache(make)

    def context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        usual = verify is True and cert is None and trust_env
        return authorities() if usual else make(verify, cert, trust_env)

    httpx._transports.default.create_ssl_context = context


def _share_compiled_statements() -> None:
    # SQLAlchemy compiles statements for each database, a quarter of the CPU of a server's start. Tests open thousands
    # of SQLite stores, for which the compiled statements are the same, since their dialects are equal.
    compiled: MutableMapping[Any, Any] = sqlalchemy.util.LRUCache(1000)
    SQLiteDialect_pysqlite.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign,assignment]
    SQLiteDialect_pysqlite.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign,assignment]

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "engine_connect")
    def share(connection: sqlalchemy.Connection) -> None:
        if isinstance(connection.dialect, SQLiteDialect_pysqlite):
            connection.execution_options(compiled_cache=compiled)


def _remember_what_is_not_installed() -> None:
    # For each connection, httpx looks for sniffio in all folders of the path, to which pytest adds eight: 2 % of the
    # CPU of tests/integration.
    if importlib.util.find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]
