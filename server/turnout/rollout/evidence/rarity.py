"""Tests whether a canary's bad events are rare enough for promotion, regardless of the baseline. Pure."""

import numpy as np

from turnout.rollout.evidence.keyed import Keyed
from turnout.rollout.evidence.likelihood import mean_exp, rate_ratio
from turnout.rollout.evidence.ticks import Count

_RARER = (0.05, 0.25, 0.5)
_MORE_OFTEN = (5.0, 30.0, 300.0)
"""Multiples of the rate at which the two tests are most sensitive."""


def is_rare(canary: Count, keyed: Keyed | None, rate: float, phi: int, beta: float) -> bool:
    """Returns whether bad events are shown to be rarer than `rate`, with no unit shown to have more.

    Units are also tested alone, since a sum over many hides a tenant whose every request fails. The tests are binomial
    e-processes at 1/beta; null and alternatives are rates and not ratios, so that sums are sufficient.

    Args:
        canary: All requests of the canary.
        keyed: Its requests with keys, by unit; None if there were none.
        rate: Bad events per request.
        phi: Number of requests that share their outcome.
        beta: Probability of being wrong.
    """
    rare = mean_exp([rate_ratio(canary, rate, rate * r) / phi for r in _RARER])
    return rare >= 1.0 / beta and (keyed is None or _worst(keyed, rate, phi) < 1.0 / beta)


def _worst(keyed: Keyed, rate: float, phi: int) -> float:
    """Returns the e-value of the canary's worst unit against "at most `rate`", divided by the number of its units."""
    (some,) = np.nonzero(keyed.bad)
    counts = [Count(int(keyed.requests[one]), int(keyed.bad[one])) for one in some]
    found = [mean_exp([rate_ratio(count, rate, rate * r) / phi for r in _MORE_OFTEN]) for count in counts]
    return max(found, default=0.0) / max(int(np.count_nonzero(keyed.requests)), 1)
