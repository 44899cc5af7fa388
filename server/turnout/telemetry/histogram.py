"""A histogram that costs half a microsecond to observe. Owned by the event loop: no lock."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple


def geometric_bounds(lowest: float, highest: float, ratio: float) -> tuple[float, ...]:
    """Returns upper bounds from `lowest` to `highest`, evenly spaced in the logarithm, at most `ratio` apart."""
    steps = math.ceil(math.log(highest / lowest) / math.log(ratio) - 1e-9)
    return tuple(float(f"{lowest * (highest / lowest) ** (i / steps):.5g}") for i in range(steps + 1))


LATENCY_BOUNDS = geometric_bounds(250e-6, 30.0, 1.5)
"""Seconds. One list for every version and every latency family, so that they can be compared and summed."""

BATCH_BOUNDS = tuple(float(2**i) for i in range(11))
"""Rows of a batch."""


class Exemplar(NamedTuple):
    """One observation in a bucket, with a link to its trace.

    Attributes:
        trace_id: Its trace, 32 hexadecimal digits.
        value: The observed value.
        time: When it was observed, in seconds since 1970.
    """

    trace_id: str
    value: float
    time: float


def quantile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float | None:
    """Returns a quantile of counts by bucket, interpolated within its bucket.

    Args:
        bounds: Upper bounds of the buckets, ascending, above 0.
        counts: By bucket; one more than `bounds`.
        q: The quantile, 0 to 1.

    Returns:
        The value; None if nothing was counted, and the last bound if it is above that.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, reached = q * total, 0
    for index, count in enumerate(counts):
        if count and reached + count >= wanted:
            if index >= len(bounds):
                return bounds[-1]
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * (wanted - reached) / count
        reached += count
    return bounds[-1]


class Histogram:
    """Counts of observations by bucket, and their sum.

    Attributes:
        bounds: Upper bounds of the buckets, inclusive, ascending; a last bucket without bound follows.
        counts: Observations by bucket (not cumulative); one longer than `bounds`.
        total: Sum of all observations.
        exemplars: Latest traced observation by index of its bucket; None before the first.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] | None = None

    def observe(self, value: float) -> None:
        """Counts one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def remember(self, exemplar: Exemplar) -> None:
        """Keeps a counted observation as the exemplar of its bucket."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar
