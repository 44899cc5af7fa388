"""Whether copies of requests may run now: live requests come first."""

import math
import time

from turnout.host.cpu import whole_cores
from turnout.serving.versions.catalog import Catalog, CatalogSnapshot
from turnout.serving.versions.handle import VersionHandle

_BUSY_LOOP = 0.75
"""Share of its core that the event loop may use before it counts as having none to spare. It is what every live request
goes through, and a copy costs it about as much as a request does."""

_MEMORY_SECONDS = 0.1
"""How far back the load is looked at: a server that is busy has gaps of some milliseconds between two batches, and a
copy that starts in one runs on into what comes next."""

_LEAST_SECONDS = 0.004
"""How long a look holds; what is measured over less says little."""

_SLACK = 0.25
"""Of a core: so little live work leaves the core free all the same."""


class Pressure:
    """Tells whether there is a core's time to spare. One for all lanes of a server; used on the event loop only.

    Attributes:
        running: Copies that run now.
    """

    def __init__(self, catalog: Catalog, cores: int | None = None) -> None:
        self.running = 0
        self._catalog = catalog
        self._snapshot: CatalogSnapshot | None = None
        self._handles: list[VersionHandle] = []
        self._cores = cores or whole_cores()
        self._looked = time.monotonic()
        self._loop_used = time.thread_time()
        self._live = 0.0
        self._loop_share = 0.0

    def has_room(self) -> bool:
        """Tells whether one more copy may start: no live request waits, and a core is left over by what runs."""
        live, waiting = self._live_requests()
        self._look(live)
        if waiting or self._loop_share >= _BUSY_LOOP or self.running >= max(self._cores - 1, 1):
            return False
        return max(self._live, live) + self.running + 1 <= self._cores + _SLACK

    def _live_requests(self) -> tuple[int, int]:
        """Returns the requests that runners have or will have, and how many of them wait."""
        snapshot = self._catalog.snapshot
        if snapshot is not self._snapshot:  # else each copy would look through every version that is known
            self._snapshot = snapshot
            entries = (entry for model in snapshot.models.values() for entry in model.versions.values())
            self._handles = [entry.handle for entry in entries if entry.handle is not None]
        busy = [handle for handle in self._handles if handle.inflight]
        return sum(handle.inflight for handle in busy), sum(handle.queue_depth for handle in busy)

    def _look(self, live: int) -> None:
        """Moves the averages of live requests and of the event loop's share of a core on to now."""
        now = time.monotonic()
        since = now - self._looked
        if since < _LEAST_SECONDS:
            return
        used = time.thread_time()
        keep = math.exp(-since / _MEMORY_SECONDS)
        self._live = keep * self._live + (1 - keep) * live
        self._loop_share = keep * self._loop_share + (1 - keep) * (used - self._loop_used) / since
        self._looked, self._loop_used = now, used
