"""What the child processes of versions are watched with, in a server that has an event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from turnout.serving.isolation.pool import Supervision


def supervision(log: FilteringBoundLogger) -> Supervision:
    """Returns the supervision of a server whose event loop runs; `log` is told of each child that died."""
    loop = asyncio.get_running_loop()

    def start_thread(work: Callable[[], None]) -> None:
        """Runs `work` in a thread that the event loop's thread starts, whose priority is the ordinary one."""

        def start() -> None:
            threading.Thread(target=work, name="keep", daemon=True).start()

        loop.call_soon_threadsafe(start)

    def died(version: str, how: str, delay: float | None, ended: bool) -> None:
        """Tells that the child process of a version died, or was ended from here; from any thread."""

        def tell() -> None:
            name, _, exact = version.rpartition("@")
            warn = log.warning if ended else log.error
            event = "child process ended" if ended else "child process died"
            warn(event, model=name, version=exact, how=how, next_start_seconds=delay)

        with suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(tell)

    return Supervision(start_thread, died)
