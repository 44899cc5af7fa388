"""The metrics of the evidence, and their hypotheses. Pure."""

from dataclasses import dataclass

LEAST_BAD = 3
"""Minimum number of bad events of the canary for a metric to count. Such a floor can only lower false positives."""

ERRORS, DISAGREEMENT, SLO, STALLED, INVALID = "errors", "disagreement", "slo", "stalled", "invalid"
LATENCIES = ("p90", "p95", "p99", STALLED)
"""Metrics of requests slower than a threshold from the baseline: a quantile of its latency, or many times its p99."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, and the hypotheses that it is tested against.

    Attributes:
        name: `errors`, `invalid`, `p90`, `p95`, `p99`, `stalled`, `slo` or `disagreement`.
        weight: Share of the combined evidence. The weights of a plan sum to 1.
        null: Highest rate ratio that is not worse (for `disagreement`: highest rate).
        alternatives: Rate ratios at which the evidence is most sensitive (for `disagreement`: multiples of `null`).
        good_null: Lowest rate ratio that forbids promotion (for `disagreement`: multiple of `null`).
        good_alternatives: Rate ratios of a candidate that is fit for promotion.
        floor: Number of bad events of the canary below which the metric adds nothing.
        fine_rate: Rate of bad events below which a canary is fit regardless of the ratio; 0 for none.
    """

    name: str
    weight: float
    null: float
    alternatives: tuple[float, ...]
    good_null: float
    good_alternatives: tuple[float, ...] = (0.5, 0.7, 0.85, 1.0, 1.2)
    floor: int = LEAST_BAD
    fine_rate: float = 0.0

    @property
    def promotes(self) -> bool:
        """Whether promotion requires evidence in this metric.

        Not for stalls, which are too rare to show a ratio, and not for disagreement, which the shadow stage has
        checked.
        """
        return self.name not in (STALLED, DISAGREEMENT)

    @property
    def one_armed(self) -> bool:
        """Whether there is no baseline to compare with, so that a rate is tested against an absolute one."""
        return self.name == DISAGREEMENT


def errors(weight: float) -> Metric:
    """Returns the metric of errors that are the server's fault."""
    return Metric(ERRORS, weight, 1.5, (2.0, 3.0, 5.0, 10.0, 30.0), 2.0, fine_rate=1e-3)


def invalid(weight: float) -> Metric:
    """Returns the metric of answers with NaN or infinity in an output."""
    return Metric(INVALID, weight, 1.5, (2.0, 3.0, 5.0, 10.0, 30.0), 2.0, fine_rate=1e-3)


def latency(name: str, weight: float) -> Metric:
    """Returns the metric of requests slower than a threshold, such as the baseline's own p99."""
    return Metric(name, weight, 1.25, (1.5, 2.0, 3.0, 5.0, 10.0), 1.5)


def disagreement(weight: float, rate: float) -> Metric:
    """Returns the metric of answers that differ beyond tolerance, against the absolute `rate`."""
    return Metric(DISAGREEMENT, weight, rate, (2.0, 3.0, 5.0, 10.0, 30.0), 2.0, (0.05, 0.25, 0.5))
