"""Estimates how dependent requests are that are bad at about the same time, though not one after the other. Pure.

A noisy neighbor slows only some of an arm's requests, a full queue refuses every other one, and of two runners only one
may stall. Such an occasion has no long runs, but the arm's excess of bad requests grows steadily while it lasts, and
then no more. So the estimate is the range of the cumulative excess (the rescaled range: Hurst 1951; Kuiper 1960):

    z      = (x_c n_b - x_b n_c) / (n_c + n_b)     the canary's excess in one block of time; what happens to both arms
                                                   at the same time cancels
    C      = cumulative z less its mean, so that a candidate that is worse all the time has no range
    D      = (max C - min C)^2 / sum((n_b / n)^2 x_c + (n_c / n)^2 x_b)

For S bad requests at one time, D is about S; for independent ones about 1.6, and above 3.05 in one case in twenty.

An arm that is bad from the beginning may be worse, or have an occasion just then. So until the blocks cover the time in
which clusters are looked for, one more block without any excess is assumed before them: what lasts for k blocks of S
then counts as (k + 1)^2 / k requests in each.
"""

import numpy as np
from numpy.typing import NDArray

_BY_CHANCE = 3.05
"""Square of the range that independent requests exceed in 5 % of cases (Kuiper 1960). Below it, they count as such."""


def clustered(requests: NDArray[np.int64], bad: NDArray[np.int64], *, young: bool = False) -> NDArray[np.float64]:
    """Returns how many times as much bad requests vary as independent ones, because they are bad at the same time.

    Args:
        requests: Requests of consecutive blocks of time; shape (blocks, metrics, 2), with the canary first.
        bad: Number of bad ones among them; same shape.
        young: Whether there are no blocks before these.

    Returns:
        1 or more; shape (metrics,).
    """
    n_c, n_b = (requests[..., arm].astype(float) for arm in (0, 1))
    both = (n_c > 0) & (n_b > 0)  # evidence counts only blocks in which both arms had requests
    total = np.where(both, n_c + n_b, 1.0)
    of_c, of_b = (np.where(both, n / total, 0.0) for n in (n_b, n_c))
    excess, exposure = of_c * bad[..., 0] - of_b * bad[..., 1], of_c * n_c
    if young:
        excess = np.concatenate([np.zeros_like(excess[:1]), excess])
        exposure = np.concatenate([exposure.mean(0, keepdims=True), exposure])
    share = np.cumsum(exposure, axis=0) / np.maximum(exposure.sum(0), 1e-300)
    path = np.cumsum(excess, axis=0) - share * excess.sum(0)
    spread = np.maximum(path.max(0), 0.0) - np.minimum(path.min(0), 0.0)
    variance = (of_c**2 * bad[..., 0] + of_b**2 * bad[..., 1]).sum(0)
    found = np.where(variance > 0, spread**2 / np.maximum(variance, 1e-300), 0.0)
    return np.where(found > _BY_CHANCE, found, 1.0)
