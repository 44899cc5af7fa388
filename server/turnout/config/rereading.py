"""Reads the settings of a running server again, when it receives SIGHUP."""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from turnout.config.settings import Settings
from turnout.errors import ConfigError
from turnout.threads import Threads

_KEPT = "the settings cannot be reloaded; the previous ones stay in force"


async def on_each_hangup(hung_up: asyncio.Event, reload: Callable[[], Awaitable[None]]) -> None:
    """Calls `reload` after each SIGHUP, once for those that arrive during a call. Runs until it is cancelled.

    Args:
        hung_up: Event that the signal's handler sets.
        reload: Reads the settings again, and applies them.
    """
    while True:
        await hung_up.wait()
        hung_up.clear()
        await reload()


async def reread(read: Callable[[], Settings], log: FilteringBoundLogger) -> Settings | None:
    """Returns the settings as they are now; None if that fails, which is logged.

    Args:
        read: Returns the settings. Raises ConfigError if they are invalid. Called in a thread, because the file system
            may hang, or the file may be a pipe without a writer.
        log: Logger for the failure.
    """
    threads = Threads("settings")
    try:
        return await threads.run(read)
    except ConfigError as error:
        log.error(_KEPT, reason=error.message)
    except Exception as error:  # later reloads must still be possible
        log.error(_KEPT, exc_info=error)
    finally:
        threads.shutdown()
    return None
