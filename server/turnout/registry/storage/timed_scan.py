"""Scans a repository with a time limit, one scan at a time, so that a hanging file system blocks only one thread."""

import asyncio
import errno

from turnout.registry.storage.listing import Listing
from turnout.registry.storage.repository import Repository

SCAN_SECONDS = 10.0
"""Time limit of a scan in seconds. 10,000 versions take one second on a file system that looks up each of them."""

_LATE_SECONDS = 0.5
"""Time in seconds that a caller waits for a scan that has timed out before. What does not need the files goes on."""


class TimedScanner:
    """Finds which versions exist. Used only on the event loop, by one caller at a time."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._scanning: asyncio.Future[Listing] | None = None

    async def listing(self) -> Listing | OSError:
        """Returns the versions that exist, or the error if the repository cannot be read or does not answer in time."""
        if self._scanning is not None:  # one that timed out; it may have begun before the change that is looked for
            await asyncio.wait([self._scanning], timeout=_LATE_SECONDS)
        if self._scanning is None or self._scanning.done():
            self._scanning = asyncio.ensure_future(self._repository.in_thread(self._repository.scan))
            await asyncio.wait([self._scanning], timeout=SCAN_SECONDS)
        if not self._scanning.done():
            return TimeoutError(errno.ETIMEDOUT, f"no answer within {SCAN_SECONDS:g} s")
        scanned, self._scanning = self._scanning, None
        try:
            return scanned.result()
        except OSError as error:
            return error
