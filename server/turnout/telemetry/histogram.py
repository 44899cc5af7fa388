"""A histogram in which an observation costs half a microsecond. It is used on the event loop only and has no lock."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple


def geometric_bounds(lowest: float, highest: float, ratio: float) -> tuple[float, ...]:
    """Returns upper bounds from `lowest` to `highest`, evenly spaced on a log scale, at most a factor `ratio` apart."""
    steps = math.ceil(math.log(highest / lowest) / math.log(ratio) - 1e-9)
    return tuple(float(f"{lowest * (highest / lowest) ** (i / steps):.5g}") for i in range(steps + 1))


LATENCY_BOUNDS = geometric_bounds(250e-6, 30.0, 1.5)
"""Upper bounds of latency buckets, in seconds. All versions and families share them, so that they can be compared and
summed."""

BATCH_BOUNDS = tuple(float(2**i) for i in range(11))
"""Upper bounds of batch size buckets, in rows."""


class Exemplar(NamedTuple):
    """An observation in a bucket, linked to its trace.

    Attributes:
        trace_id: Trace id, 32 hexadecimal digits.
        time: Time of the observation, in seconds since 1970.
    """

    trace_id: str
    value: float
    time: float


def quantile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float | None:
    """Returns a quantile of a histogram, linearly interpolated within its bucket.

    Args:
        bounds: Upper bounds of the buckets, ascending, above 0.
        counts: Number of observations in each bucket; one element longer than `bounds`.
        q: The quantile, 0 to 1.

    Returns:
        The value; None if there are no observations. If it is above the last bound, the last bound.
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
    """The number of observations in each bucket, and their sum.

    Attributes:
        bounds: Inclusive upper bounds of the buckets, ascending. A last bucket without a bound follows.
        counts: Number of observations in each bucket (not cumulative); one element longer than `bounds`.
        total: Sum of all observed values.
        exemplars: Latest traced observation of each bucket, by the bucket's index; None before the first.
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
        """Stores an observation, which is already counted, as the exemplar of its bucket."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar
