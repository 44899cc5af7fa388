"""Collects the log lines of libraries. The only module that uses Python's `logging`; everything else uses structlog."""

import logging

from structlog.typing import FilteringBoundLogger


class LibraryLogs(logging.Handler):
    """Passes the log lines of libraries, which use Python's `logging`, to the server's logger.

    Without a handler Python writes them to standard error itself, at any length, and may block.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def __enter__(self) -> "LibraryLogs":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line; raises nothing."""
        try:
            write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
            message = record.getMessage()
            write(message if message.isprintable() else repr(message), logger=record.name, exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 - a library's arguments may not fit its own format
            self._log.warning("a library's log line cannot be read", logger=record.name)
