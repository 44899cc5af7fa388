"""What probes measured in a step, and whether that rolls the candidate back or lets the step pass. Pure.

A measurement passes, fails, or is inconclusive: the probe could not be asked, or what it answered is not a measure. An
inconclusive one is neither pass nor fail; it counts only by how many came in a row. Probes are outside of alpha, as
guards are.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from turnout.registry.manifest.json_form import JsonForm

LONGEST_DETAIL = 300
"""Characters of a measurement's detail."""


class ProbeOutcome(StrEnum):
    """What a measurement says of the candidate."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


def _not_below_0(*counts: int) -> None:
    if min(counts) < 0:
        raise ValueError("expected counts of measurements, got one below 0")


@dataclass(frozen=True, slots=True)
class ProbeLimits(JsonForm):
    """What a probe's measurements of a step have to come to.

    Attributes:
        count: That have to pass.
        failure_limit: That may fail.
        consecutive_error_limit: Inconclusive ones in a row, beyond which earlier ones count no more.
    """

    count: int = 1
    failure_limit: int = 2
    consecutive_error_limit: int = 4

    AS_LIST = True

    def __post_init__(self) -> None:
        _not_below_0(self.count, self.failure_limit, self.consecutive_error_limit)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One answer of a probe.

    Attributes:
        stage: Of the rollout when it was asked, as `Rollout.stage`.
        value: What was measured, as text; "" if nothing was.
        detail: A sentence: what limit it is beyond, or why it is inconclusive; "" if it passed.
        time: When it was answered, UTC.
        limits: The probe's.
    """

    probe: str
    stage: int
    outcome: ProbeOutcome
    value: str
    detail: str
    time: datetime
    limits: ProbeLimits = ProbeLimits()


@dataclass(frozen=True, slots=True)
class ProbeRecord(JsonForm):
    """A probe's measurements in one step.

    Attributes:
        passed, failed, inconclusive: How many there were of each.
        errors: Inconclusive ones since the last other one.
        conclusive: ProbeOutcome of the last one that was conclusive; None before the first.
        outcome, value, detail, time: Of the last one; None and "" before the first.
        limits: As the last one came with.
    """

    passed: int = 0
    failed: int = 0
    inconclusive: int = 0
    errors: int = 0
    conclusive: ProbeOutcome | None = None
    outcome: ProbeOutcome | None = None
    value: str = ""
    detail: str = ""
    time: datetime | None = None
    limits: ProbeLimits = ProbeLimits()

    def __post_init__(self) -> None:
        _not_below_0(self.passed, self.failed, self.inconclusive, self.errors)

    def taken(self, one: Measurement) -> "ProbeRecord":
        """Returns the record with one more measurement."""
        counted = replace(
            self, outcome=one.outcome, value=one.value, detail=one.detail, time=one.time, limits=one.limits
        )
        match one.outcome:
            case ProbeOutcome.PASSED:
                return replace(counted, passed=self.passed + 1, errors=0, conclusive=one.outcome)
            case ProbeOutcome.FAILED:
                return replace(counted, failed=self.failed + 1, errors=0, conclusive=one.outcome)
            case ProbeOutcome.INCONCLUSIVE:
                return replace(counted, inconclusive=self.inconclusive + 1, errors=self.errors + 1)

    @property
    def has_failed(self) -> bool:
        """More failed than may."""
        return self.failed > self.limits.failure_limit

    @property
    def lacking(self) -> str:
        """What is missing before the step may be passed, in words; "" if nothing is."""
        if self.outcome is None:
            return "it was not asked yet"
        if self.errors > self.limits.consecutive_error_limit:
            return f"inconclusive {self.errors} times in a row: {self.detail}"
        if self.conclusive is None:
            return f"inconclusive: {self.detail}"
        if self.conclusive is ProbeOutcome.FAILED:
            return f"the last measurement failed, {self.failed} of {self.limits.failure_limit} that may"
        if self.passed < self.limits.count:
            return f"{self.passed} of {self.limits.count} measurements passed"
        return ""


NOT_ASKED = ProbeRecord()
"""Of a probe before its first measurement in a step."""


def judged(value: float, fail_above: float | None, fail_below: float | None) -> tuple[ProbeOutcome, str]:
    """Returns what a number says, and which limit it is beyond.

    Args:
        value: Infinity is compared like any other; NaN is not a measure.
        fail_above: A number above this fails; None for no such limit.
        fail_below: A number below this fails; None for no such limit.
    """
    if math.isnan(value):
        return ProbeOutcome.INCONCLUSIVE, "it answered NaN"
    if fail_above is not None and value > fail_above:
        return ProbeOutcome.FAILED, f"{number_text(value)} is above {number_text(fail_above)}"
    if fail_below is not None and value < fail_below:
        return ProbeOutcome.FAILED, f"{number_text(value)} is below {number_text(fail_below)}"
    if fail_above is None and fail_below is None:
        return ProbeOutcome.INCONCLUSIVE, "it answered a number, and neither fail_above nor fail_below is set"
    return ProbeOutcome.PASSED, ""


def number_text(value: float) -> str:
    """Returns a number as it is told: six digits, and NaN and infinity as Prometheus writes them."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else f"{value:.6g}"
