"""Estimates how dependent requests are that are bad at about the same time, though not one after the other. Pure.

A noisy neighbor slows only some of an arm's requests, a full queue refuses every other one, and of two runners only one
may stall. Such an occasion has no long runs, but the arm's excess of bad requests grows steadily while it lasts, and
then no more. So the estimate is the range of the cumulative excess (the rescaled range: Hurst 1951; Kuiper 1960):

    z      = (x_c n_b - x_b n_c) / (n_c + n_b)     the canary's excess in one block of time; what happens to both arms
                                                   at the same time cancels
    C      = cumulative z less its mean, so that a candidate that is worse all the time has no range
    D      = (max C - min C)^2 / sum((n_b / n)^2 x_c + (n_c / n)^2 x_b)

For S bad requests at one time, D is about S; for independent ones about 1.6, and above 3.05 in one case in twenty.

The range over a few blocks cannot distinguish small clusters, such as a request that fails and is retried three times,
from chance. They show in many blocks: between neighboring blocks, the excess then varies more than independent requests
would let it (the mean square successive difference: von Neumann 1941; over several blocks at a time: Allan 1966). A
candidate that becomes worse moves the excess once. The blocks with the largest excesses are left out: rare bursts have
estimates of their own, and would otherwise hide everything else for as long as they are remembered.

An arm that is bad from the beginning may be worse, or have an occasion just then. So until the blocks cover the time in
which clusters are looked for, one more block without any excess is assumed before them: what lasts for k blocks of S
then counts as (k + 1)^2 / k requests in each.
"""

import math

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-300

_BY_CHANCE = 3.05
"""Square of the range that independent requests exceed in 5 % of cases (Kuiper 1960). Below it, they count as such."""

_LENGTHS = (1, 4)
"""Numbers of blocks over which excesses are summed before neighbors are compared: retries may take longer than one."""

_LEFT_OUT = 0.05
"""Share of the blocks that are left out of the scatter, those with the largest excesses."""

_DEVIATIONS = 1.645
"""Number of standard deviations by which the scatter of independent requests exceeds 1 in 5 % of cases."""

Floats = NDArray[np.float64]


def clustered(requests: NDArray[np.int64], bad: NDArray[np.int64], *, young: bool = False) -> Floats:
    """Returns how many times as much bad requests vary as independent ones, because they are bad at the same time.

    Args:
        requests: Requests of consecutive blocks of time; shape (blocks, metrics, 2), with the canary first.
        bad: Number of bad ones among them; same shape.
        young: Whether there are no blocks before these.

    Returns:
        1 or more; shape (metrics,).
    """
    excess, exposure, variance = _excesses(requests, bad)
    if young:
        excess = np.concatenate([np.zeros_like(excess[:1]), excess])
        exposure = np.concatenate([exposure.mean(0, keepdims=True), exposure])
    share = np.cumsum(exposure, axis=0) / np.maximum(exposure.sum(0), _TINY)
    path = np.cumsum(excess, axis=0) - share * excess.sum(0)
    spread = np.maximum(path.max(0), 0.0) - np.minimum(path.min(0), 0.0)
    found = spread**2 / np.maximum(variance.sum(0), _TINY)
    return np.where(found > _BY_CHANCE, found, 1.0)


def scattered(requests: NDArray[np.int64], bad: NDArray[np.int64]) -> Floats:
    """Returns how many times as much the excess varies between neighboring blocks as that of independent requests.

    The arguments and the result are those of `clustered`. Many blocks are needed.
    """
    blocks = _excesses(requests, bad)
    kept = _without_largest(blocks[0] ** 2 / np.maximum(blocks[2], _TINY))
    largest = np.ones(requests.shape[1])
    for length in _LENGTHS:
        pairs = len(requests) - 2 * length + 1
        if pairs < 1:
            break
        excess, exposure, variance = (_sums(np.where(kept, one, 0.0), length) for one in blocks)
        here, before = exposure[length:], exposure[:-length]
        # Both are brought to the exposure of the other: for independent requests, the squares' mean is `expected`.
        squares = (excess[length:] * before - excess[:-length] * here) ** 2
        expected = variance[length:] * before**2 + variance[:-length] * here**2
        weights = 1.0 / np.maximum(here + before, 1e-9) ** 2
        found = (weights * squares).sum(0) / np.maximum((weights * expected).sum(0), _TINY)
        deviation = math.sqrt((4 * length / 3 + 5 / (3 * length)) / pairs)  # sums overlap
        largest = np.where(found > 1.0 + _DEVIATIONS * deviation, np.maximum(found, largest), largest)
    return largest


def _excesses(requests: NDArray[np.int64], bad: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Returns the canary's excess of bad requests, its exposure, and its variance; each of shape (blocks, metrics)."""
    n_c, n_b = (requests[..., arm].astype(float) for arm in (0, 1))
    both = (n_c > 0) & (n_b > 0)  # evidence counts only blocks in which both arms had requests
    total = np.where(both, n_c + n_b, 1.0)
    of_c, of_b = (np.where(both, n / total, 0.0) for n in (n_b, n_c))
    variance = of_c**2 * bad[..., 0] + of_b**2 * bad[..., 1]
    return of_c * bad[..., 0] - of_b * bad[..., 1], of_c * n_c, variance


def _without_largest(values: Floats) -> NDArray[np.bool_]:
    """Returns whether each block is kept; shape (blocks, metrics), as that of the values."""
    last = len(values) - 1 - int(len(values) * _LEFT_OUT)
    kept: NDArray[np.bool_] = values <= np.partition(values, last, axis=0)[last]
    return kept


def _sums(values: Floats, length: int) -> Floats:
    sums: Floats = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values]), axis=0)
    return sums[length:] - sums[:-length]
