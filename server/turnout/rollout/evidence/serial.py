"""Estimates how dependent the requests of an arm are, because requests in a queue share their fate. Pure.

A run of a model that takes long delays all requests behind it: fifty slow requests, but one occasion. Counted as fifty
independent draws, they would roll back a version that is equal to its baseline. The estimate uses the lengths of runs
of consecutive bad requests, in the order in which requests end. If occasions are independent and each makes S requests
bad, the number of bad requests varies E[S^2] / E[S] times as much as that of independent requests (a compound Poisson
variable). Independent requests form runs, too: if a bad request follows a good one with probability q, their dispersion
is (1 + q) / (1 - q), by which the estimate is divided.

If every request of an arm was bad for ten seconds and fifty requests, or since the arm began, each request counts.

The largest of four estimates is used: runs of the last ten seconds; runs of the last five minutes, at times that are
not bad themselves, so that an arm that fails in bursts is not compared burst by single error; clusters of the last 20
seconds (`turnout.rollout.evidence.clusters`), which need not be consecutive; and the scatter of bad requests over 15
minutes, of which the latest is left out. It shows clusters of a few requests.
"""

from collections import deque
from collections.abc import Mapping
from itertools import takewhile
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from turnout.rollout.evidence.clusters import clustered, scattered

_LEAST_SECONDS, _MOST_SECONDS, _REQUESTS = 10.0, 60.0, 50
"""Time in seconds, and number of requests of each arm, over which runs are examined while the rules for bad requests
stay the same. The time is extended up to the maximum if an arm had fewer requests."""

_POOLED_SECONDS = 300.0
"""Time in seconds over which runs are also examined together."""

_CLUSTER_SECONDS = 20.0
"""Time in seconds over which clusters are looked for."""

_SCATTER_SECONDS, _LATEST_SECONDS = 900.0, 60.0
"""Time in seconds over which the scatter is examined, and the latest part of it, which is left out unless there is
hardly more: a candidate that begins to fail is no cluster."""

_BLOCK_SECONDS, _SCATTER_BLOCK_SECONDS = 1.0, 4.0
"""Ticks that end within this time are examined as one, since there may be ten ticks a second. The scatter has longer
blocks, because a request and its retries should be in one."""


class InSequence(NamedTuple):
    """Statistics of one arm's requests in the order in which they ended.

    Attributes:
        runs: Number of runs of consecutive bad requests.
        squares: Sum of the squares of the lengths of these runs.
    """

    requests: int
    bad: int
    runs: int
    squares: int


Sequences = Mapping[str, InSequence]
"""The sequences of one arm, by metric."""


def arm_dispersion(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the variance of an arm's number of bad requests, divided by that of independent requests; at least 1.

    `counts` have the fields of `InSequence` last.
    """
    requests, bad, runs, squares = (counts[..., number] for number in range(4))
    good = requests - bad
    chance = np.minimum(runs / (good + 1), 1.0)
    found = squares / np.maximum(bad, 1) * (1.0 - chance) / (1.0 + chance)
    return np.where((bad > 0) & (good > 0), np.maximum(found, 1.0), 1.0)  # if none was good, each request counts


def dispersions(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the dispersion of the comparison of two arms; shape (metrics, 2, 4) to (metrics,).

    Each arm is weighted by its part in the variance of the canary's share of the bad events.
    """
    requests, bad = counts[..., 0], counts[..., 1]
    weights = (requests[..., ::-1] / np.maximum(requests.sum(-1, keepdims=True), 1)) ** 2 * bad
    total = weights.sum(-1)
    mixed = (weights * arm_dispersion(counts)).sum(-1) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mixed.round(3), 1.0)


K = TypeVar("K")


class _Block(NamedTuple):
    """One tick, or several short ones: the ends of the first and the last in seconds, and both arms.

    The counts have shape (metrics, 2, 4), with the canary first, and with the fields of `InSequence` last.
    """

    began: float
    ended: float
    counts: NDArray[np.int64]

    @property
    def requests(self) -> int:
        """Number of requests of the arm that had fewer."""
        return int(self.counts[..., 0].max(0, initial=0).min())


class _Recent:
    """Recent blocks, the latest last."""

    def __init__(self, block_seconds: float, seconds: float) -> None:
        self._block_seconds, self._seconds = block_seconds, seconds
        self._blocks: deque[_Block] = deque()

    def add(self, ended: float, counts: NDArray[np.int64]) -> None:
        """Adds a tick, to the latest block if that is short, and forgets blocks that are too old."""
        blocks = self._blocks
        if blocks and ended - blocks[-1].began < self._block_seconds:
            last = blocks.pop()
            blocks.append(_Block(last.began, ended, last.counts + counts))
        else:
            blocks.append(_Block(ended, ended, counts))
        while ended - blocks[0].ended >= self._seconds:
            blocks.popleft()

    def counts(self) -> NDArray[np.int64]:
        """Returns the counts of all blocks; shape (blocks, metrics, 2, 4)."""
        counts = [block.counts for block in self._blocks]
        return np.concatenate(counts).reshape(len(counts), *counts[0].shape)  # np.stack takes three times as long

    def since(self, seconds: float) -> int:
        """Returns the number of blocks that ended less than this time before the latest."""
        ended = self._blocks[-1].ended
        return sum(1 for _ in takewhile(lambda block: ended - block.ended < seconds, reversed(self._blocks)))

    def near(self) -> int:
        """Returns how many of the latest blocks are examined for runs."""
        requests, ended = 0, self._blocks[-1].ended
        for taken, block in enumerate(reversed(self._blocks)):
            age = ended - block.ended
            if age >= _MOST_SECONDS or (age >= _LEAST_SECONDS and requests >= _REQUESTS):
                return taken
            requests += block.requests
        return len(self._blocks)


class RecentSequences(Generic[K]):
    """Recent sequences of both arms. Several ticks are kept, because ticks may be shorter than a stall."""

    def __init__(self) -> None:
        self._counted: tuple[K, tuple[str, ...]] | None = None
        self._forget()

    def _forget(self) -> None:
        self._recent = _Recent(_BLOCK_SECONDS, _POOLED_SECONDS)
        self._long = _Recent(_SCATTER_BLOCK_SECONDS, _SCATTER_SECONDS)

    def take(self, ended: float, counted: K, canary: Sequences, baseline: Sequences) -> dict[str, float]:
        """Adds a tick, and returns the dispersions by metric; metrics with a dispersion of 1 are left out.

        Args:
            ended: End of the tick in seconds.
            counted: The rules for bad requests. Earlier ticks with other rules are discarded.
            canary: The canary's sequences in this tick.
            baseline: Those of the arm that it is compared with.
        """
        names = tuple(canary)
        if self._counted != (counted, names):
            self._counted = counted, names
            self._forget()
        counts = np.array([(canary[name], baseline[name]) for name in names], np.int64).reshape(-1, 2, 4)
        self._recent.add(ended, counts)
        self._long.add(ended, counts)
        blocks = self._recent.counts()
        near, pooled = blocks[-self._recent.near() :].sum(0), blocks.sum(0)
        lately = blocks[-self._recent.since(_CLUSTER_SECONDS) :]
        runs = dispersions(near)
        clusters = clustered(lately[..., 0], lately[..., 1], young=len(lately) == len(blocks))
        # What is bad more often now than on the whole is a burst, and seen whole in its own runs.
        pooled_runs = np.where(_share_bad(near) <= _share_bad(pooled), dispersions(pooled), 1.0)
        everything_bad = ((near[..., 1] == near[..., 0]) & (near[..., 1] > 0)).any(-1)
        largest = np.maximum.reduce([runs, pooled_runs, clusters, self._scattered()])
        found = np.where(everything_bad, runs, largest).round(3).tolist()
        return {name: value for name, value in zip(names, found, strict=True) if value > 1.0}

    def _scattered(self) -> NDArray[np.float64]:
        blocks = self._long.counts()
        if len(blocks) >= 2 * (latest := self._long.since(_LATEST_SECONDS)):
            blocks = blocks[:-latest]
        return scattered(blocks[..., 0], blocks[..., 1])


def _share_bad(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the share of bad requests of both arms together, shape (metrics,); 0 if there were none."""
    requests, bad = counts[..., 0].sum(-1), counts[..., 1].sum(-1)
    share: NDArray[np.float64] = bad / np.maximum(requests, 1)
    return share


def shared_fate(dispersion: NDArray[np.float64], batch: int) -> NDArray[np.float64]:
    """Returns how many bad events count as one; the shape is that of `dispersion`.

    Args:
        dispersion: Variance of bad events divided by that of independent ones, 1 or more.
        batch: Number of requests that share their fate as one batch. Batches alone can show a dispersion of up to
            2 batch - 1; up to there, the batch size is returned.
    """
    shared: NDArray[np.float64] = np.where(dispersion <= 2 * batch - 1, batch, dispersion)
    return shared
