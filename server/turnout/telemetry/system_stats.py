"""Readings from the system for a scrape, which may hang."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CachedReading(Generic[T]):
    """A reading from a thread; if it takes too long, the last value is used. Used on the event loop only.

    Later scrapes wait for a read that hangs, so that it never occupies more than one thread.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], first: T) -> None:
        """Prepares.

        Args:
            read: Reads the value in a thread; the scrape raises its errors.
            first: The value before the first read.
        """
        self._read = read
        self._last = first
        self._running: asyncio.Future[T] | None = None

    async def value(self, bound: float) -> T:
        """Returns the present value, or the last one after `bound` seconds."""
        if self._running is None:
            self._running = asyncio.ensure_future(self._read())
        running = self._running
        await asyncio.wait([running], timeout=bound)
        if running.done():
            if self._running is running:
                self._running = None
            self._last = running.result()
        return self._last
