"""Lists the repository, one scan at a time: where its file system hangs, it is one thread that does."""

import asyncio
import errno

from turnout.registry.storage.listing import Listing
from turnout.registry.storage.repository import Repository

SCAN_SECONDS = 10.0
"""What a scan may take: 10,000 versions take one second, on a file system that has to be asked for each."""


class Scanner:
    """Looks what versions exist. Used on the event loop only."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._scanning: asyncio.Future[Listing] | None = None

    async def listing(self) -> Listing | OSError:
        """Returns what exists, or why that cannot be told: it cannot be read, or does not answer in time."""
        try:
            return await self._scan()
        except OSError as error:
            return error

    async def _scan(self) -> Listing:
        before = self._scanning
        if before is not None:  # one that was given up; it may have begun before what is looked for
            await asyncio.wait([before], timeout=SCAN_SECONDS)
        if self._scanning is None or self._scanning.done():
            self._scanning = asyncio.ensure_future(self._repository.in_thread(self._repository.scan))
        scanning = self._scanning
        if scanning is not before:
            await asyncio.wait([scanning], timeout=SCAN_SECONDS)
        if not scanning.done():
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {SCAN_SECONDS:g} s")
        if self._scanning is scanning:
            self._scanning = None
        return scanning.result()
