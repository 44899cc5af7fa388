"""What has to be asked of the system for a scrape, and may not answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CachedReading(Generic[T]):
    """A value that is read elsewhere; where that takes too long, the last one stands in. Used on the event loop only.

    A read that hangs is waited for by the scrapes that follow, so that it takes one thread and no more.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], first: T) -> None:
        """Prepares.

        Args:
            read: Reads it in a thread; what it raises is the scrape's.
            first: Stands in until it was read once.
        """
        self._read = read
        self._last = first
        self._running: asyncio.Future[T] | None = None

    async def value(self, bound: float) -> T:
        """Returns the value of now, or the last one after `bound` seconds."""
        if self._running is None:
            self._running = asyncio.ensure_future(self._read())
        running = self._running
        await asyncio.wait([running], timeout=bound)
        if running.done():
            if self._running is running:
                self._running = None
            self._last = running.result()
        return self._last
