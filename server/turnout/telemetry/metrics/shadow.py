"""Metrics of shadows, scraped like the others (`turnout.telemetry.metrics.versions`)."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from turnout.telemetry.families import Family
from turnout.telemetry.histogram import LATENCY_BOUNDS, Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement

DIFFERENCE_BOUNDS = tuple(float(f"1e{exponent}") for exponent in range(-9, 4))
"""Buckets of absolute differences: float32 is exact to about 1e-7 of its value, and 1e3 is far off in any unit."""


_SHOWN_AT_ZERO = ("agreed", "disagreed")
"""Outcomes that a shadow has from the beginning: otherwise its first disagreement would be no increase."""


@dataclass(slots=True)
class ShadowRecorder:
    """Counts about one version as a shadow. Owned by the event loop.

    Attributes:
        model, version: Labels.
        outcomes: Copies by outcome.
        dropped: Copies that were not run, by reason.
        mismatches: By output and kind.
        differences: Largest absolute difference of each copy, by output.
        lag: Seconds from the live answer to the end of the comparison.
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
        """Labels of every series."""
        return {"model": self.model, "version": self.version}


def shadow_families(shadows: Sequence[ShadowRecorder]) -> Iterator[Family]:
    """Returns the metric families of `shadows`."""
    yield Family(
        "turnout_shadow_requests_total", "counter", "Copies that were run, by what became of them.",
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
        "turnout_shadow_abs_difference", "histogram", "Largest absolute difference of two elements, of each copy.",
        [(s.labels | {"output": output}, h) for s in shadows for output, h in s.differences.items()],
    )  # fmt: skip
    yield Family(
        "turnout_shadow_agreement_ratio", "gauge", "Share of the compared copies that agree, the noise taken off.",
        [(s.labels, s.agreement) for s in shadows if s.agreement is not None],
    )  # fmt: skip
    yield Family(
        "turnout_shadow_noise_ratio", "gauge", "Share of the copies on which the baseline disagrees with itself.",
        [(s.labels, s.noise) for s in shadows if s.noise is not None],
    )  # fmt: skip
    yield Family(
        "turnout_shadow_lag_seconds", "histogram", "From the live answer to the end of the comparison.",
        [(s.labels, s.lag) for s in shadows if any(s.lag.counts)],
    )  # fmt: skip
