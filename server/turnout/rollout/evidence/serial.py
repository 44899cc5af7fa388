"""Estimates how dependent consecutive requests are, because requests in a queue share their fate. Pure.

A run of a model that takes long delays all requests behind it: fifty slow requests, but one occasion. Counted as fifty
independent draws, they would roll back a version that is equal to its baseline. The estimate uses the lengths of runs
of consecutive bad requests, in the order in which requests end. If occasions are independent and each makes S requests
bad, the number of bad requests varies E[S^2] / E[S] times as much as that of independent requests (a compound Poisson
variable). Independent requests form runs, too: if a bad request follows a good one with probability q, their dispersion
is (1 + q) / (1 - q), by which the estimate is divided.

If every request of an arm was bad for ten seconds and fifty requests, or since the arm began, each request counts.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

_LEAST_SECONDS, _MOST_SECONDS, _REQUESTS = 10.0, 60.0, 50
"""Time in seconds, and number of requests of each arm, over which runs are examined while the rules for bad requests
stay the same. The time is extended up to the maximum if an arm had fewer requests."""


class InSequence(NamedTuple):
    """Statistics of one arm's requests in the order in which they ended.

    Attributes:
        requests: Number of requests.
        bad: Number of bad requests.
        runs: Number of runs of consecutive bad requests.
        squares: Sum of the squares of the lengths of these runs.
    """

    requests: int
    bad: int
    runs: int
    squares: int

    @property
    def dispersion(self) -> float:
        """Variance of the number of bad requests, divided by that of independent requests; at least 1."""
        good = self.requests - self.bad
        if not self.bad or not good:  # if none was good, each request counts
            return 1.0
        chance = min(self.runs / (good + 1), 1.0)
        return max(self.squares / self.bad * (1.0 - chance) / (1.0 + chance), 1.0)


Sequences = Mapping[str, InSequence]
"""The sequences of one arm, by metric."""


def joined(one: Sequences, other: Sequences) -> dict[str, InSequence]:
    """Returns the sums of two parts of one arm's sequence."""
    return {name: InSequence(*map(sum, zip(mine, other[name], strict=True))) for name, mine in one.items()}


def dispersions(canary: Sequences, baseline: Sequences) -> dict[str, float]:
    """Returns the dispersion of the comparison of two arms by metric; metrics with a dispersion of 1 are left out.

    Each arm is weighted by its part in the variance of the canary's share of the bad events.
    """
    found = {}
    for name, one in canary.items():
        other = baseline[name]
        total = one.requests + other.requests
        if not total:
            continue
        weights = [(two.requests / total) ** 2 * arm.bad for arm, two in ((one, other), (other, one))]
        if weight := sum(weights):
            mixed = (weights[0] * one.dispersion + weights[1] * other.dispersion) / weight
            if (rounded := round(mixed, 3)) > 1.0:
                found[name] = rounded
    return found


K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class _Part(Generic[K]):
    """One tick: its end in seconds, the rules for bad requests, and both arms."""

    ended: float
    counted: K
    canary: Sequences
    baseline: Sequences

    @property
    def requests(self) -> int:
        """Number of requests of the arm that had fewer."""
        return min(max((one.requests for one in arm.values()), default=0) for arm in (self.canary, self.baseline))


class RecentSequences(Generic[K]):
    """Recent sequences of both arms. Several ticks are kept, because ticks may be shorter than a stall."""

    def __init__(self) -> None:
        self._recent: deque[_Part[K]] = deque()

    def take(self, ended: float, counted: K, canary: Sequences, baseline: Sequences) -> dict[str, float]:
        """Adds a tick, and returns the dispersions by metric, as `dispersions` does.

        Args:
            ended: End of the tick in seconds.
            counted: The rules for bad requests. Earlier ticks with other rules are discarded.
            canary: The canary's sequences in this tick.
            baseline: Those of the arm that it is compared with.
        """
        recent = self._recent
        recent.append(_Part(ended, counted, canary, baseline))
        while ended - recent[0].ended >= _MOST_SECONDS or recent[0].counted != counted:
            recent.popleft()
        requests = sum(part.requests for part in recent)
        while ended - recent[0].ended >= _LEAST_SECONDS and requests - recent[0].requests >= _REQUESTS:
            requests -= recent.popleft().requests
        return dispersions(reduce(joined, (p.canary for p in recent)), reduce(joined, (p.baseline for p in recent)))


def shared_fate(dispersion: NDArray[np.float64], batch: int) -> NDArray[np.float64]:
    """Returns how many bad events count as one; the shape is that of `dispersion`.

    Args:
        dispersion: Variance of bad events divided by that of independent ones, 1 or more.
        batch: Number of requests that share their fate as one batch. Batches alone can show a dispersion of up to
            2 batch - 1; up to there, the batch size is returned.
    """
    shared: NDArray[np.float64] = np.where(dispersion <= 2 * batch - 1, batch, dispersion)
    return shared
