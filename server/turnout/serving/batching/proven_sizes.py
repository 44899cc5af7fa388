"""Tracks for which sizes of the other dimensions requests may share a run.

Some graphs depend on sizes (`If` on a size); for these the batch dimension is followed for one set of sizes at a time.
Requests of new sizes run alone while their sizes are proved in the background.
"""

import threading
from collections.abc import Callable, Iterable

Sizes = tuple[tuple[str, tuple[int, ...]], ...]
"""The dimensions of each input, by name, without the batch axis."""

MOST_KNOWN = 256
"""Maximum number of sets of sizes remembered; requests of further sizes run alone."""


class ProvenSizes:
    """Proved sizes, and a thread that proves new ones. Used on the event loop, which it never blocks."""

    def __init__(self, prove: Callable[[Sizes], bool], proved: Iterable[Sizes]) -> None:
        """Starts with sizes that are proved. To `prove` others takes some ten milliseconds."""
        self._prove = prove
        self._known = dict.fromkeys(proved, True)
        self._busy = threading.Lock()

    def holds(self, sizes: Sizes) -> bool:
        """Returns whether requests of these sizes may share a run. New sizes are proved in the background."""
        known = self._known.get(sizes)
        if known is None and len(self._known) < MOST_KNOWN and self._busy.acquire(blocking=False):
            threading.Thread(target=self._find_out, args=(sizes,), name="prove-sizes", daemon=True).start()
        return bool(known)

    def _find_out(self, sizes: Sizes) -> None:
        try:
            self._known[sizes] = self._prove(sizes)
        finally:
            self._busy.release()
