"""Whether a canary's bad events are rare enough for promotion, whatever the baseline does. Pure."""

import numpy as np

from turnout.rollout.evidence.keyed import Keyed
from turnout.rollout.evidence.likelihood import mean_exp, rate_ratio
from turnout.rollout.evidence.ticks import Count

_RARER = (0.05, 0.25, 0.5)
_MORE_OFTEN = (5.0, 30.0, 300.0)
"""Multiples of the rate that the two tests are sharpest at."""


def is_rare(canary: Count, keyed: Keyed | None, rate: float, phi: int, beta: float) -> bool:
    """Tells whether all of the canary's requests are shown to go wrong less often than `rate`, and none of its units is
    shown to do so more often: a sum over many hides one tenant whose every request fails.

    Binomial e-processes at 1/beta; null and alternatives are rates and not ratios, so that they follow from the sums.

    Args:
        canary: All of its requests.
        keyed: Those with keys, by unit; None if there were none.
        rate: Bad events a request.
        phi: Requests that share their fate.
        beta: Chance of being wrong.
    """
    rare = mean_exp([rate_ratio(canary, rate, rate * r) / phi for r in _RARER])
    return rare >= 1.0 / beta and (keyed is None or _worst(keyed, rate, phi) < 1.0 / beta)


def _worst(keyed: Keyed, rate: float, phi: int) -> float:
    """Returns the e-value that the canary's worst unit has against "at most `rate`", shared among all of its units."""
    (some,) = np.nonzero(keyed.bad)
    counts = [Count(int(keyed.requests[one]), int(keyed.bad[one])) for one in some]
    found = [mean_exp([rate_ratio(count, rate, rate * r) / phi for r in _MORE_OFTEN]) for count in counts]
    return max(found, default=0.0) / max(int(np.count_nonzero(keyed.requests)), 1)
