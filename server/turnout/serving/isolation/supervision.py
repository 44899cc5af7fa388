"""Supervision of the versions' child processes in a server with an event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from turnout.serving.isolation.pool import Supervision


def supervision(log: FilteringBoundLogger) -> Supervision:
    """Returns the supervision for a server with a running event loop; `log` records each child that died."""
    loop = asyncio.get_running_loop()

    def start_thread(work: Callable[[], None]) -> None:
        """Runs `work` in a new thread, started from the event loop's thread, which has ordinary priority."""

        def start() -> None:
            threading.Thread(target=work, name="keep", daemon=True).start()

        loop.call_soon_threadsafe(start)

    def died(version: str, how: str, delay: float | None, ended: bool) -> None:
        """Logs that the child process of a version died or was ended. Callable from any thread."""

        def tell() -> None:
            name, _, exact = version.rpartition("@")
            warn = log.warning if ended else log.error
            event = "child process ended" if ended else "child process died"
            warn(event, model=name, version=exact, how=how, next_start_seconds=delay)

        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell)

    return Supervision(start_thread, died)
