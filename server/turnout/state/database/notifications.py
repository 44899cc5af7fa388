"""Immediate notification of changes that another server made, by PostgreSQL's LISTEN and NOTIFY.

Correctness does not depend on it: a change that is missed because a connection broke, or because a pooler does not pass
it on, is found when the store's revision is next polled.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing

from sqlalchemy import Connection, Engine, text

_CHANNEL = "turnout_changes"

_WAIT_SECONDS = 1.0
"""Interval in seconds at which the thread checks whether to stop."""

_RETRY_SECONDS = 1.0
"""Seconds between two attempts to connect."""

_ASK_SECONDS = 30.0
"""Seconds without a change after which the thread asks the server for an answer. Otherwise it would listen forever to
one that stands still, or to a proxy whose server is gone."""


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
        # Here, since the package that it needs is optional.
        from psycopg import Error

        from turnout.state.database.postgresql import AnsweringConnection

        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        while not self._ended.is_set():
            try:
                with closing(AnsweringConnection.connect(*arguments, **options, autocommit=True)) as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    self._heard()  # changes before this point were not announced
                    asked = time.monotonic()
                    while not self._ended.is_set():
                        for _ in connection.notifies(timeout=_WAIT_SECONDS, stop_after=1):
                            self._heard()
                            asked = time.monotonic()
                        if time.monotonic() - asked >= _ASK_SECONDS:
                            connection.execute("SELECT 1")
                            asked = time.monotonic()
            except Error:
                self._ended.wait(_RETRY_SECONDS)
