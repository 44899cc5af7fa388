"""What differs while tests run, because many of them share a small machine: patience, and what is costly to make anew.

Whoever tests a time limit sets it. All that stands here is for those who do not mean to.
"""

import functools
import os
import ssl
from collections.abc import MutableMapping
from typing import Any

import httpx
import sqlalchemy
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from turnout.host.cpu import KEEP_PRIORITY
from turnout.rollout.engine import engine
from turnout_client import AsyncClient, Client

PATIENCE_SECONDS = 60.0
"""Within which whoever is asked has to answer, where a test does not say otherwise."""


def be_patient() -> None:
    """Gives clients, commands and what yields to others the time that a program takes which shares its cores."""
    for part in ("connect", "read", "write", "pool"):
        setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, PATIENCE_SECONDS)  # 5 s
    for kind in (Client, AsyncClient):
        kind.__init__.__kwdefaults__["timeout"] = PATIENCE_SECONDS  # 10 s
    # A command of an operator gives a store up after three seconds, which a disk that everybody writes to may take.
    engine._COMMAND_WAIT = PATIENCE_SECONDS / 3
    engine.RolloutEngine.operate.__defaults__ = (engine._COMMAND_WAIT,)
    # What a server does when nobody else wants a core would not be done for minutes.
    os.environ[KEEP_PRIORITY] = "1"


def share_what_is_costly() -> None:
    """Makes once for the whole process what each client and each store would make for itself."""
    _share_authorities()
    _share_compiled_statements()


def _share_authorities() -> None:
    # httpx reads the certificates of the world's authorities for each client, 25 ms of CPU, and tests make hundreds.
    make = httpx._transports.default.create_ssl_context
    authorities = functools.cache(make)

    def context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        usual = verify is True and cert is None and trust_env
        return authorities() if usual else make(verify, cert, trust_env)

    httpx._transports.default.create_ssl_context = context


def _share_compiled_statements() -> None:
    # SQLAlchemy compiles statements anew for each database, a quarter of the CPU that a server's start takes. Tests
    # open thousands of SQLite stores, and what is compiled is the same for all of them: their dialects are equal.
    compiled: MutableMapping[Any, Any] = sqlalchemy.util.LRUCache(1000)
    SQLiteDialect_pysqlite.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign,assignment]
    SQLiteDialect_pysqlite.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign,assignment]

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "engine_connect")
    def share(connection: sqlalchemy.Connection) -> None:
        if isinstance(connection.dialect, SQLiteDialect_pysqlite):
            connection.execution_options(compiled_cache=compiled)
