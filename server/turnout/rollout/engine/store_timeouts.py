"""Limits how long rollouts wait for the state store, since a verdict must not wait for another process's lock."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from turnout.errors import UnavailableError

T = TypeVar("T")

TICK_WAIT = 0.5
"""Seconds that a tick waits for the state store, which normally takes milliseconds. After that it uses memory."""

_LEAST_SECONDS = 0.5


class StillRunning(UnavailableError):
    """Raised when the state store has not responded in time. The work continues, and may still succeed."""


class StoreTimeout:
    """Work on the state store with a limit on waiting. Used only on the event loop.

    Work that takes longer continues in the background. No other work is begun until it has ended, so that a locked
    store gets one request and not a queue of them.
    """

    def __init__(self) -> None:
        self._late: set[asyncio.Task[Any]] = set()

    async def rest(self, seconds: float) -> float:
        """Waits for earlier work that goes on, so many seconds at most; returns how many of them are left."""
        if not self._late:
            return seconds
        began = time.monotonic()
        await asyncio.wait(list(self._late), timeout=seconds)
        return max(seconds - (time.monotonic() - began), 0.0)

    async def wait(self, work: Coroutine[Any, Any, T], seconds: float, *, patient: bool = False) -> T:
        """Waits at most `seconds` for work, and returns its result. If `patient`, that includes earlier work that is
        still running, such as a tick's; otherwise the work is refused then.

        Raises:
            StillRunning: The work takes longer, and continues.
            UnavailableError: Earlier work is still running, so this was not begun.
        """
        if patient:
            try:
                seconds = await self.rest(seconds)
            except asyncio.CancelledError:
                work.close()
                raise
        if self._late:
            work.close()
            raise UnavailableError("the state store has not answered an earlier request yet", retry_after=1.0)
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            return task.result()
        self._late.add(task)
        task.add_done_callback(self._ended)
        raise StillRunning(f"the state store has not answered within {seconds:g} s", retry_after=1.0)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # whoever began it has stopped waiting; what came of it is looked up at the next tick


def seconds_until(moment: float) -> float:
    """Returns the seconds until a moment of the event loop's clock; half a second at least, for what is begun late."""
    return max(moment - asyncio.get_running_loop().time(), _LEAST_SECONDS)
