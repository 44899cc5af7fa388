"""Log likelihood ratios of counts, and mixtures of e-values in logarithms. Pure."""

import math
from collections.abc import Sequence

from turnout.rollout.evidence.ticks import Count


def share_ratios(
    canary: tuple[float, float], baseline: tuple[float, float], null: float, others: Sequence[float]
) -> list[float]:
    """Returns the log likelihood ratios of the canary's share of the bad events, each of `others` against `null`.

    Each arm has its number of requests, and of bad ones among them.
    """
    (a, canary_bad), (b, baseline_bad) = canary, baseline
    if a <= 0 or b <= 0:
        return [0.0] * len(others)
    found = []
    for other in others:
        # theta(r) / theta(s) = (r / s) (s a + b) / (r a + b); (1 - theta(r)) / (1 - theta(s)) = (s a + b) / (r a + b).
        common = math.log((null * a + b) / (other * a + b))
        found.append(canary_bad * (math.log(other / null) + common) + baseline_bad * common)
    return found


def rate_ratio(count: Count, null: float, other: float) -> float:
    """Returns the log likelihood ratio of a binomial rate, `other` against `null`. Both are kept off 0 and 1."""
    p, q = min(max(null, 1e-9), 0.999), min(max(other, 1e-9), 0.999)
    return count.bad * math.log(q / p) + (count.requests - count.bad) * math.log((1 - q) / (1 - p))


def started(logs: Sequence[float], gamma: float) -> list[float]:
    """Returns log(exp(log M) + gamma) for each log M. All must be finite."""
    if gamma <= 0:
        return list(logs)
    log_gamma = math.log(gamma)
    pairs = [(log_m, log_gamma) if log_m > log_gamma else (log_gamma, log_m) for log_m in logs]
    return [high + math.log1p(math.exp(low - high)) for high, low in pairs]


def mean_exp(logs: Sequence[float]) -> float:
    """Returns the mean of the exponentials, limited to what a double can represent."""
    high = max(logs, default=-math.inf)
    if high == -math.inf:
        return 0.0
    log_mean = high + math.log(math.fsum(math.exp(m - high) for m in logs) / len(logs))
    return math.exp(min(log_mean, 700.0))
