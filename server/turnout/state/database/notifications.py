"""Tells at once of changes that another server made: PostgreSQL's LISTEN and NOTIFY.

Nobody depends on it: what is not heard of, since a connection broke or a pooler does not pass it on, is found
at the next look at the store's revision.
"""

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Engine, text

_CHANNEL = "turnout_changes"

_WAIT_SECONDS = 1.0
"""Between two looks whether it is to end."""

_RETRY_SECONDS = 1.0
"""Between two tries to connect."""


def notify(connection: Connection) -> None:
    """Notifies listeners once the transaction is committed; does nothing on SQLite, whose readers poll."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"NOTIFY {_CHANNEL}"))


class ChangeListener:
    """Listens for changes, in a thread with a connection of its own."""

    def __init__(self, engine: Engine, heard: Callable[[], None]) -> None:
        """Starts listening if the database announces changes.

        `heard` is called in the thread at each change, including this server's own; it must be quick and never raise.
        """
        self._engine = engine
        self._heard = heard
        self._ended = threading.Event()
        if engine.dialect.name == "postgresql":
            threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def close(self) -> None:
        """Stops listening; its thread ends within a second."""
        self._ended.set()

    def _listen(self) -> None:
        driver: Any = self._engine.dialect.loaded_dbapi
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        while not self._ended.is_set():
            try:
                with closing(driver.connect(*arguments, **options, autocommit=True)) as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    self._heard()  # what happened before that was not told
                    while not self._ended.is_set():
                        for _ in connection.notifies(timeout=_WAIT_SECONDS, stop_after=1):
                            self._heard()
            except driver.Error:
                self._ended.wait(_RETRY_SECONDS)
