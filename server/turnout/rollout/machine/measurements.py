"""The measurements of probes in a step, and whether they roll the candidate back or let the step pass. Pure.

A measurement passes, fails, or is inconclusive: the probe could not be asked, or its answer was not usable.
    Inconclusive
measurements are neither passes nor failures; they matter only if too many occur in a row. Probes are not covered by
alpha, like guards.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from turnout.registry.manifest.json_form import JsonForm

LONGEST_DETAIL = 300
"""Maximum length of a measurement's detail in characters."""


class ProbeOutcome(StrEnum):
    """The outcome of a measurement."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


def _not_below_0(*counts: int) -> None:
    if min(counts) < 0:
        raise ValueError("expected counts of measurements, got one below 0")


@dataclass(frozen=True, slots=True)
class ProbeLimits(JsonForm):
    """Limits on the measurements of a probe in a step.

    Attributes:
        count: Number of measurements that must pass.
        failure_limit: Number of measurements that may fail.
        consecutive_error_limit: Number of consecutive inconclusive measurements beyond which earlier ones no longer
            count.
    """

    count: int = 1
    failure_limit: int = 2
    consecutive_error_limit: int = 4

    AS_LIST = True

    def __post_init__(self) -> None:
        _not_below_0(self.count, self.failure_limit, self.consecutive_error_limit)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement of a probe.

    Attributes:
        stage: Stage of the rollout when the probe was asked, as in `Rollout.stage`.
        value: Measured value as text; "" if there is none.
        detail: A sentence about the limit that was exceeded, or why it is inconclusive; "" if it passed.
        time: When the answer arrived, in UTC.
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
        passed, failed, inconclusive: Number of measurements with each outcome.
        errors: Number of inconclusive measurements since the last conclusive one.
        conclusive: Outcome of the last conclusive measurement; None before the first.
        outcome, value, detail, time: The last measurement; None and "" before the first.
        limits: Limits that came with the last measurement.
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
        """Whether more measurements failed than may."""
        return self.failed > self.limits.failure_limit

    @property
    def lacking(self) -> str:
        """What is missing before the step can be passed, in words; "" if nothing is."""
        if self.outcome is None:
            return "it has not been asked yet"
        if self.errors > self.limits.consecutive_error_limit:
            return f"inconclusive {self.errors} times in a row: {self.detail}"
        if self.conclusive is None:
            return f"inconclusive: {self.detail}"
        if self.conclusive is ProbeOutcome.FAILED:
            return f"the last measurement failed, {self.failed} of {self.limits.failure_limit} allowed"
        if self.passed < self.limits.count:
            return f"{self.passed} of {self.limits.count} measurements passed"
        return ""


NOT_ASKED = ProbeRecord()
"""The record of a probe before its first measurement in a step."""


def judged(value: float, fail_above: float | None, fail_below: float | None) -> tuple[ProbeOutcome, str]:
    """Returns the outcome for a number, and which limit it exceeds. Infinity is compared like any other number; NaN is
    inconclusive.
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
    """Formats a number for display: six digits, and NaN and infinity as in Prometheus."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else f"{value:.6g}"
