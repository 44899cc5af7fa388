"""Immediate notification of changes that another server made, by PostgreSQL's LISTEN and NOTIFY.

Correctness does not depend on it: a change that is missed because a connection broke, or because a pooler does not pass
it on, is found when the store's revision is next polled.
"""

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Engine, text

_CHANNEL = "turnout_changes"

_WAIT_SECONDS = 1.0
"""Interval in seconds at which the thread checks whether to stop."""

_RETRY_SECONDS = 1.0
"""Seconds between two attempts to connect."""


def notify(connection: Connection) -> None:
    """Notifies listeners when the transaction is committed. Does nothing on SQLite, whose readers poll."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"NOTIFY {_CHANNEL}"))


class ChangeListener:
    """Listens for changes, in a thread with its own connection."""

    def __init__(self, engine: Engine, heard: Callable[[], None]) -> None:
        """Starts to listen if the database announces changes.

        `heard` is called in the thread at each change, including this server's own. It must be quick and never raise.
        """
        self._engine = engine
        self._heard = heard
        self._ended = threading.Event()
        if engine.dialect.name == "postgresql":
            threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def close(self) -> None:
        """Stops listening. The thread ends within a second."""
        self._ended.set()

    def _listen(self) -> None:
        driver: Any = self._engine.dialect.loaded_dbapi
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        while not self._ended.is_set():
            try:
                with closing(driver.connect(*arguments, **options, autocommit=True)) as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    self._heard()  # changes before this point were not announced
                    while not self._ended.is_set():
                        for _ in connection.notifies(timeout=_WAIT_SECONDS, stop_after=1):
                            self._heard()
            except driver.Error:
                self._ended.wait(_RETRY_SECONDS)
