"""Metrics of shadows."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from turnout.telemetry.families import Family
from turnout.telemetry.histogram import LATENCY_BOUNDS, Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement

DIFFERENCE_BOUNDS = tuple(float(f"1e{exponent}") for exponent in range(-9, 4))
"""Upper bounds of the buckets of absolute differences: the relative precision of float32 is about 1e-7, and 1e3 is a
large difference in any unit."""


_SHOWN_AT_ZERO = ("agreed", "disagreed")
"""Outcomes that start at 0, so that Prometheus sees the first disagreement as an increase."""


@dataclass(slots=True)
class ShadowRecorder:
    """Counts of one version as a shadow. Used on the event loop only.

    Attributes:
        model, version: Labels.
        outcomes: Number of copies, by outcome.
        dropped: Number of copies that were not run, by reason.
        mismatches: Number of mismatches, by output and kind.
        differences: Histograms of the largest absolute difference of each copy, by output.
        lag: Histogram of the seconds from the live answer to the end of the comparison.
        agreement: Share of the copies that agree, corrected for noise; None before the first.
        noise: Share of the copies on which the baseline disagreed with itself; None before the first check.
    """

    model: str
    version: str
    outcomes: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int, dict.fromkeys(_SHOWN_AT_ZERO, 0)))
    dropped: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    mismatches: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    differences: dict[str, Histogram] = field(default_factory=dict)
    lag: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))
    agreement: ShadowAgreement | None = None
    noise: Ratio | None = None

    def difference(self, output: str, largest: float) -> None:
        """Counts the largest absolute difference of one copy in `output`."""
        histogram = self.differences.get(output)
        if histogram is None:
            histogram = self.differences[output] = Histogram(DIFFERENCE_BOUNDS)
        histogram.observe(largest)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the shadow's series."""
        return {"model": self.model, "version": self.version}


def shadow_families(shadows: Sequence[ShadowRecorder]) -> Iterator[Family]:
    """Returns the metric families of `shadows`."""
    yield Family(
        "turnout_shadow_requests_total", "counter", "Copies that were run, by outcome.",
        [(s.labels | {"outcome": outcome}, float(n)) for s in shadows for outcome, n in s.outcomes.items()],
    )  # fmt: skip
    yield Family(
        "turnout_shadow_dropped_total", "counter", "Copies that were not run, by reason.",
        [(s.labels | {"reason": reason}, float(n)) for s in shadows for reason, n in s.dropped.items()],
    )  # fmt: skip
    yield Family(
        "turnout_shadow_mismatch_total", "counter", "Outputs that disagree beyond tolerance, by kind.",
        [
            (s.labels | {"output": output, "kind": kind}, float(n))
            for s in shadows
            for (output, kind), n in s.mismatches.items()
        ],
    )  # fmt: skip
    yield Family(
        "turnout_shadow_abs_difference", "histogram",
        "Largest absolute difference between two elements of an output, for each copy.",
        [(s.labels | {"output": output}, h) for s in shadows for output, h in s.differences.items()],
    )  # fmt: skip
    yield Family(
        "turnout_shadow_agreement_ratio", "gauge", "Share of the compared copies that agree, corrected for noise.",
        [(s.labels, s.agreement) for s in shadows if s.agreement is not None],
    )  # fmt: skip
    yield Family(
        "turnout_shadow_noise_ratio", "gauge", "Share of the copies on which the baseline disagrees with itself.",
        [(s.labels, s.noise) for s in shadows if s.noise is not None],
    )  # fmt: skip
    yield Family(
        "turnout_shadow_lag_seconds", "histogram", "Time from the live answer to the end of the comparison.",
        [(s.labels, s.lag) for s in shadows if any(s.lag.counts)],
    )  # fmt: skip
