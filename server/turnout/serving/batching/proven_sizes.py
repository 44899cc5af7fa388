"""For which sizes of the other dimensions it is proved that requests may share a run.

Where a graph takes another way for another length (`If` on a size), the batch dimension is followed for one set of
sizes at a time. Sizes that were not met before run alone, and are proved beside the requests.
"""

import threading
from collections.abc import Callable, Iterable

Sizes = tuple[tuple[str, tuple[int, ...]], ...]
"""Of each input by name: its dimensions but for the batch axis."""

MOST_KNOWN = 256
"""Sets of sizes that are remembered; those met after that run alone."""


class ProvenSizes:
    """What is proved, and a thread that proves more. Asked on the event loop, where it never waits."""

    def __init__(self, prove: Callable[[Sizes], bool], proved: Iterable[Sizes]) -> None:
        """Prepares.

        Args:
            prove: Follows the batch dimension through the graph; takes some ten milliseconds.
            proved: Sizes that it said yes to already.
        """
        self._prove = prove
        self._known = dict.fromkeys(proved, True)
        self._busy = threading.Lock()

    def holds(self, sizes: Sizes) -> bool:
        """Tells whether requests of these sizes may share a run. Sizes that are new are proved by and by."""
        known = self._known.get(sizes)
        if known is None and len(self._known) < MOST_KNOWN and self._busy.acquire(blocking=False):
            threading.Thread(target=self._find_out, args=(sizes,), name="prove-sizes", daemon=True).start()
        return bool(known)

    def _find_out(self, sizes: Sizes) -> None:
        try:
            self._known[sizes] = self._prove(sizes)
        finally:
            self._busy.release()
