"""How much more bad events vary than independent ones would, since requests in a queue share their fate. Pure.

One run of a model that takes long holds up all that wait behind it: fifty slow requests, and one occasion. Counted as
fifty draws they roll back a version that computes the same as its baseline. So what counts is how long the runs of bad
requests are that ended one right after the other. Where occasions are independent, and each makes S requests bad, the
number of bad ones varies E[S^2] / E[S] times as much as that of independent requests (a compound Poisson variable).
Runs of independent requests have lengths, too: if a good request is followed by a bad one with the chance q, this is
(1 + q) / (1 - q), which is taken out.

Where every request of an arm was bad for ten seconds and fifty requests, or since it began, that is no occasion but the
rule: each counts.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

_LEAST_SECONDS, _MOST_SECONDS, _REQUESTS = 10.0, 60.0, 50
"""Over which runs are looked at, as far as what counts as bad stays the same: longer if an arm had fewer requests."""


class InSequence(NamedTuple):
    """One arm's requests in the order in which they ended.

    Attributes:
        requests: All of them.
        bad: The bad ones.
        runs: Of bad ones that ended one right after the other.
        squares: Sum of the squares of the lengths of these runs.
    """

    requests: int
    bad: int
    runs: int
    squares: int

    @property
    def dispersion(self) -> float:
        """The variance of the number of bad requests over that of independent ones, at least 1."""
        good = self.requests - self.bad
        if not self.bad or not good:  # none was good: a rule, and no occasion
            return 1.0
        chance = min(self.runs / (good + 1), 1.0)
        return max(self.squares / self.bad * (1.0 - chance) / (1.0 + chance), 1.0)


Sequences = Mapping[str, InSequence]
"""One arm's, by metric."""


def joined(one: Sequences, other: Sequences) -> dict[str, InSequence]:
    """Returns the sums of two parts of one arm's sequence."""
    return {name: InSequence(*map(sum, zip(mine, other[name], strict=True))) for name, mine in one.items()}


def dispersions(canary: Sequences, baseline: Sequences) -> dict[str, float]:
    """Returns by metric how much more the comparison of two arms varies than with independent requests, above 1.

    Each arm counts by its part in the variance of the canary's share of the bad events.
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
    """One tick: when it ended, what counted, and both arms."""

    ended: float
    counted: K
    canary: Sequences
    baseline: Sequences

    @property
    def requests(self) -> int:
        """Of the arm that had fewer."""
        return min(max((one.requests for one in arm.values()), default=0) for arm in (self.canary, self.baseline))


class RecentSequences(Generic[K]):
    """Both arms' sequences of the latest seconds: ticks may be shorter than what holds a queue up."""

    def __init__(self) -> None:
        self._recent: deque[_Part[K]] = deque()

    def take(self, ended: float, counted: K, canary: Sequences, baseline: Sequences) -> dict[str, float]:
        """Takes a tick, and returns the dispersions by metric (`dispersions`).

        Args:
            ended: When the tick ended, seconds.
            counted: What counted as bad; what was counted otherwise before says nothing.
            canary: The canary's part.
            baseline: The part of what it is compared with.
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
        dispersion: How much more bad events vary than independent ones would, 1 or more.
        batch: Requests that share their fate as one batch. Runs that all have this length show a dispersion of
            2 batch - 1, which is half of it too much: up to there the batch explains it.
    """
    shared: NDArray[np.float64] = np.where(dispersion <= 2 * batch - 1, batch, dispersion)
    return shared
