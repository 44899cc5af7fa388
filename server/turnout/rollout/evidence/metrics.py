"""What is counted, and what it is tested against. Pure."""

from dataclasses import dataclass

LEAST_BAD = 3
"""A metric with fewer bad events of the canary than this adds nothing: it only lowers false positives."""

ERRORS, DISAGREEMENT, SLO, STALLED, INVALID = "errors", "disagreement", "slo", "stalled", "invalid"
LATENCIES = ("p90", "p95", "p99", STALLED)
"""Requests slower than a threshold of the baseline's own: a quantile of its latency, or many times its p99."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is counted, and what it is tested against.

    Attributes:
        name: `errors`, `invalid`, `p90`, `p95`, `p99`, `stalled`, `slo` or `disagreement`.
        weight: Its share of the combined evidence; those of a plan sum to 1.
        null: Highest rate ratio that is not worse (of `disagreement`: highest rate).
        alternatives: Rate ratios that the evidence is sharpest at (of `disagreement`: multiples of `null`).
        good_null: Lowest rate ratio that forbids promotion (of `disagreement`: multiple of `null`).
        good_alternatives: Rate ratios of a candidate that is fit for promotion.
        floor: Bad events of the canary below which the metric adds nothing.
        fine_rate: A canary whose rate of bad events is shown to be below this is fit, whatever the ratio; 0 for none.
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
        """Whether promotion takes evidence of fitness in this metric.

        Not in stalls, which are too rare to show a ratio of, and not in disagreement, which the shadow stage has asked.
        """
        return self.name not in (STALLED, DISAGREEMENT)

    @property
    def one_armed(self) -> bool:
        """Whether there is no baseline to compare with, and a rate is tested against an absolute one."""
        return self.name == DISAGREEMENT


def errors(weight: float) -> Metric:
    """Returns the metric of errors that the server is to blame for."""
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
