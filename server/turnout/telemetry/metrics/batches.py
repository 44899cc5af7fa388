"""Counts successful runs by their number of rows. Used on the event loop only, so without a lock."""

from bisect import bisect_left
from collections.abc import Iterator

from turnout.telemetry.histogram import BATCH_BOUNDS, Histogram

_MOST_SIZES = 1024
"""Maximum number of distinct sizes. A request that runs alone can have any number of rows, chosen by its client.
Further sizes are rounded up to a power of two, which falls into the same bucket of the histogram."""


class BatchSize:
    """Counts of the runs of one size. Each run adds to all three counts.

    Attributes:
        size: Number of rows of each run or, once there are too many sizes, their maximum.
        rows: Number of rows of all runs together.
        seconds: Duration of all runs together.
    """

    __slots__ = ("rows", "runs", "seconds", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.runs = 0
        self.rows = 0
        self.seconds = 0.0


class BatchSizes:
    """Counts of the runs of one version, by size."""

    def __init__(self) -> None:
        self._sizes: dict[int, BatchSize] = {}

    def __iter__(self) -> Iterator[BatchSize]:
        """Yields the sizes that occurred, ascending."""
        return iter(sorted(self._sizes.values(), key=lambda one: one.size))

    def of(self, rows: int) -> BatchSize:
        """Returns the counter for runs with this many rows."""
        found = self._sizes.get(rows)
        if found is None:
            size = rows if len(self._sizes) < _MOST_SIZES else 1 << max(rows - 1, 0).bit_length()
            found = self._sizes.get(size) or self._sizes.setdefault(size, BatchSize(size))
        return found

    def observe(self, rows: int, seconds: float) -> None:
        """Counts one run."""
        one = self.of(rows)
        one.runs += 1
        one.rows += rows
        one.seconds += seconds

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(one.runs for one in self._sizes.values())

    @property
    def rows(self) -> int:
        """Number of rows of all runs together."""
        return sum(one.rows for one in self._sizes.values())

    def histogram(self) -> Histogram:
        """Returns a histogram of the runs by their number of rows."""
        whole = Histogram(BATCH_BOUNDS)
        for one in self._sizes.values():
            whole.counts[bisect_left(BATCH_BOUNDS, one.size)] += one.runs
            whole.total += one.rows
        return whole
