"""Values that a scrape reads from the operating system or a driver, which may hang."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CachedReading(Generic[T]):
    """A value that is read in a thread. If that takes too long, the previous value is used. For the event loop only.

    While a read hangs, later scrapes wait for the same read, so that it never occupies more than one thread.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], first: T) -> None:
        """Creates the cache of what `read` reads in a thread, `first` before that. `value` raises its errors."""
        self._read = read
        self._last = first
        self._running: asyncio.Future[T] | None = None

    async def value(self, bound: float) -> T:
        """Returns the current value, or the previous one if the read takes more than `bound` seconds."""
        if self._running is None:
            self._running = asyncio.ensure_future(self._read())
        running = self._running
        await asyncio.wait([running], timeout=bound)
        if running.done():
            if self._running is running:
                self._running = None
            self._last = running.result()
        return self._last
