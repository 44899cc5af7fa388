"""Decides whether copies of requests may run now. Live requests come first."""

import asyncio
import math
import time

from turnout.host.cpu import whole_cores
from turnout.serving.versions.catalog import Catalog, CatalogSnapshot
from turnout.serving.versions.handle import VersionHandle

_BUSY_LOOP = 0.75
"""Share of its core above which the event loop counts as busy. Every live request goes through it, and a copy costs it
about as much as a request."""

_MEMORY_SECONDS = 0.1
"""Time constant of the load averages in seconds. A busy server has gaps of a few milliseconds between two batches, and
a copy that starts in one would overlap the next batch."""

_LEAST_SECONDS = 0.004
"""Minimum interval between two measurements in seconds. Over a shorter one, a measurement says little."""

_PAUSE_SECONDS = 0.005
"""Interval of checks while lanes have to wait: short compared with a copy's use, long compared with a check's cost."""

_SLACK = 0.25
"""Amount of live work, in cores, that is ignored: it leaves a core free for most of the time."""


class Pressure:
    """Decides whether a core has time to spare. Shared by all lanes of a server, and used only on the event loop.

    Attributes:
        running: Number of copies that are running.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.running = 0
        self._turns: list[asyncio.Future[None]] = []
        self._catalog = catalog
        self._snapshot: CatalogSnapshot | None = None
        self._handles: list[VersionHandle] = []
        self._cores = whole_cores()
        self._looked = time.monotonic()
        self._loop_used = time.thread_time()
        self._live = 0.0
        self._loop_share = 0.0

    def has_room(self) -> bool:
        """Returns whether one more copy may start: no live request waits, and running work leaves a core free."""
        live, waiting = self._live_requests()
        self._look(live)
        if waiting or self._loop_share >= _BUSY_LOOP or self.running >= max(self._cores - 1, 1):
            return False
        return max(self._live, live) + self.running + 1 <= self._cores + _SLACK

    async def pause(self) -> None:
        """Waits before a lane asks again: until a copy has ended, or for a while.

        The lanes are woken one after the other, and all together ask as often as one, since a question costs 15 us.
        """
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            await asyncio.wait([turn], timeout=_PAUSE_SECONDS * len(self._turns))
        finally:
            self._turns.remove(turn)

    def ended(self) -> None:
        """Records that a copy has ended, and wakes the lane that has waited longest."""
        self.running -= 1
        if (turn := next((turn for turn in self._turns if not turn.done()), None)) is not None:
            turn.set_result(None)

    def _live_requests(self) -> tuple[int, int]:
        """Returns the number of requests that are running or waiting, and how many of them wait."""
        snapshot = self._catalog.snapshot
        if snapshot is not self._snapshot:  # otherwise each copy would iterate over all known versions
            self._snapshot = snapshot
            entries = (entry for model in snapshot.models.values() for entry in model.versions.values())
            self._handles = [entry.handle for entry in entries if entry.handle is not None]
        busy = [handle for handle in self._handles if handle.inflight]
        return sum(handle.inflight for handle in busy), sum(handle.queue_depth for handle in busy)

    def _look(self, live: int) -> None:
        """Updates the averages of live requests and of the event loop's share of a core."""
        now = time.monotonic()
        since = now - self._looked
        if since < _LEAST_SECONDS:
            return
        used = time.thread_time()
        keep = math.exp(-since / _MEMORY_SECONDS)
        self._live = keep * self._live + (1 - keep) * live
        self._loop_share = keep * self._loop_share + (1 - keep) * (used - self._loop_used) / since
        self._looked, self._loop_used = now, used
