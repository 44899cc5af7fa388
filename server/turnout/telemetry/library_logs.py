"""Forwards the log lines of libraries. Only this module uses Python's `logging`; all others use structlog."""

import logging

from structlog.typing import FilteringBoundLogger


class LibraryLogs(logging.Handler):
    """Forwards log lines from Python's `logging`, which libraries use, to the server's logger.

    Without a handler, Python would write them directly to standard error, at any length, and might block.
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
        """Writes one line. Never raises."""
        try:
            write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
            message = record.getMessage()
            write(message if message.isprintable() else repr(message), logger=record.name, exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 - a library's format string may not match its arguments
            self._log.warning("a library's log line cannot be read", logger=record.name)
