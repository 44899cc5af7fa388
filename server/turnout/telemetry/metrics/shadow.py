"""Metrics of shadows."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from turnout.telemetry.families import Family, counter, families_of, gauge, histogram
from turnout.telemetry.histogram import LATENCY_BOUNDS, Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement

DIFFERENCE_BOUNDS = tuple(float(f"1e{exponent}") for exponent in range(-9, 4))
"""Upper bounds of the buckets of absolute differences: the relative precision of float32 is about 1e-7, and 1e3 is a
large difference in any unit."""


@dataclass(slots=True)
class ShadowRecorder:
    """Counts of one version as a shadow. Used on the event loop only.

    Attributes:
        model, version: Labels.
        lag: Histogram of the seconds from the live answer to the end of the comparison.
        agreement, noise: None before the first.
    """

    model: str
    version: str
    outcomes: defaultdict[str, int] = counter(
        "turnout_shadow_requests_total", "Copies that were run, by outcome.", "outcome"
    )
    dropped: defaultdict[str, int] = counter(
        "turnout_shadow_dropped_total", "Copies that were not run, by reason.", "reason"
    )
    mismatches: defaultdict[tuple[str, str], int] = counter(
        "turnout_shadow_mismatch_total", "Outputs that disagree beyond tolerance, by kind.", "output", "kind"
    )
    differences: dict[str, Histogram] = histogram(
        "turnout_shadow_abs_difference",
        "Largest absolute difference between two elements of an output, for each copy.", "output",
    )  # fmt: skip
    agreement: ShadowAgreement | None = gauge(
        "turnout_shadow_agreement_ratio", "Share of the compared copies that agree, corrected for noise.", default=None
    )
    noise: Ratio | None = gauge(
        "turnout_shadow_noise_ratio", "Share of the copies on which the baseline disagrees with itself.", default=None
    )
    lag: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))

    def __post_init__(self) -> None:
        # Shown at 0, so that Prometheus sees the first disagreement as an increase.
        self.outcomes |= {"agreed": 0, "disagreed": 0}

    def difference(self, output: str, largest: float) -> None:
        """Counts the largest absolute difference of one copy in `output`."""
        self.differences.setdefault(output, Histogram(DIFFERENCE_BOUNDS)).observe(largest)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the shadow's series."""
        return {"model": self.model, "version": self.version}


def shadow_families(shadows: Sequence[ShadowRecorder]) -> Iterator[Family]:
    """Returns the metric families of `shadows`."""
    yield from families_of(shadows, ShadowRecorder)
    yield Family(
        "turnout_shadow_lag_seconds", "histogram", "Time from the live answer to the end of the comparison.",
        [(s.labels, s.lag) for s in shadows if any(s.lag.counts)],
    )  # fmt: skip
