"""Whether copies of requests may run now: live requests come first."""

import os
import time

from turnout.serving.catalog import Catalog

_BUSY_LOOP = 0.75
"""Share of its core that the event loop may use before it counts as having none to spare. It is what every live request
goes through, and a copy costs it about as much as a request does."""

_SAMPLE_SECONDS = 0.005


class Pressure:
    """Tells whether there is a core's time to spare. One for all lanes of a server; used on the event loop only.

    Attributes:
        running: Copies that run now.
    """

    def __init__(self, catalog: Catalog, cores: int | None = None) -> None:
        self.running = 0
        self._catalog = catalog
        self._cores = cores or len(os.sched_getaffinity(0))
        self._sampled = time.monotonic()
        self._used = time.thread_time()
        self._utilisation = 0.0

    def has_room(self) -> bool:
        """Tells whether one more copy may start: no live request waits, and cores are left over by those that run."""
        live = 0
        for model in self._catalog.snapshot.models.values():
            for entry in model.versions.values():
                if entry.handle is not None and entry.handle.inflight:
                    if entry.handle.queue_depth:
                        return False
                    live += entry.handle.inflight
        return live + self.running < self._cores and self._loop_utilisation() < _BUSY_LOOP

    def _loop_utilisation(self) -> float:
        """Returns the share of the last few milliseconds for which the event loop had a core."""
        now = time.monotonic()
        if now - self._sampled >= _SAMPLE_SECONDS:
            used = time.thread_time()
            self._utilisation = (used - self._used) / (now - self._sampled)
            self._sampled, self._used = now, used
        return self._utilisation
