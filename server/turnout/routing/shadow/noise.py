"""The baseline's own noise, which is subtracted from a shadow's disagreement. Pure.

A model that draws random numbers disagrees with itself, and so does one whose kernels do not always sum in the same
order. Copies are run on the baseline a second time, and outputs that differ there are *noisy*.

A disagreement counts if an output differs that was never seen to be noisy. If only noisy outputs differ, it counts with
probability p0 / (v + p0), where v is the rate at which the baseline disagrees with itself (the upper end of what the
repeats allow), and p0 the rate that the plan allows. A shadow that is no noisier than the baseline, and worse by p0,
then disagrees in at most p0 of its copies, so that the test against p0 remains valid. The larger v is, the fewer
disagreements count, and in the end none.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

EARLY_REPEATS = 32
"""Number of first copies that are always repeated on the baseline. Noise at a rate of 10 % stays undetected in that
many for one of 30 models."""

REPEATS_A_DISAGREEMENT = 10
"""Number of repeats for each disagreement: copies on which a verdict may depend are examined more closely."""

NEEDED_REPEATS = 16
"""Number of repeats needed before anything is judged."""

_SIGMAS = 2.33
_NOTHING_LEFT = 0.5
_GOLDEN = 0.6180339887498949


@dataclass(slots=True)
class Noise:
    """What is known about a baseline's disagreement with itself.

    An output that differs in form (another shape, NaN on one side) has another name here than one whose values differ.

    Attributes:
        measured: Whether copies are repeated at all; if not, the baseline is assumed to be free of noise.
        runs: Number of repeats.
        disagreements: Number of repeats whose answer differed from the first.
        outputs: Outputs that ever differed.
    """

    measured: bool = True
    runs: int = 0
    disagreements: int = 0
    outputs: set[str] = field(default_factory=set)

    def take(self, differing: Collection[str]) -> None:
        """Adds one repeat, with the outputs that differed from the first answer."""
        self.runs += 1
        self.disagreements += bool(differing)
        self.outputs.update(differing)

    def wanted(self, compared: int, disagreed: int) -> bool:
        """Returns whether more repeats are needed than the configured share, given the numbers of copies that were
        compared and that disagreed.
        """
        return self.measured and self.runs < min(compared, EARLY_REPEATS + REPEATS_A_DISAGREEMENT * disagreed)

    @property
    def known(self) -> bool:
        """Whether enough repeats were run to judge anything."""
        return not self.measured or self.runs >= NEEDED_REPEATS

    @property
    def rate(self) -> float:
        """Rate at which the baseline disagrees with itself: the upper end of Wilson's interval (1927), 99 %."""
        n, p, z = self.runs, self.disagreements / max(self.runs, 1), _SIGMAS
        if not n or not self.disagreements:
            return 0.0
        middle, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return min((middle + width) / (1 + z * z / n), 1.0)

    def counts(self, differing: Collection[str], number: int, allowed: float) -> bool:
        """Returns whether a disagreement counts.

        Args:
            differing: Outputs that differ beyond tolerance, as `AnswerComparison` names them.
            number: Number of the copy, which replaces a random draw: it is independent of the copy's outcome.
            allowed: Rate of disagreements that the plan allows.
        """
        if not self.outputs.issuperset(differing):
            return True
        if self.disagreements >= _NOTHING_LEFT * self.runs:
            return False
        return (number * _GOLDEN) % 1.0 < allowed / (self.rate + allowed)

    def nothing_left(self, outputs: Collection[str]) -> str:
        """Returns why nothing can be compared in these outputs, as a sentence; "" if something can."""
        if not self.runs or not self.known or not self.outputs.issuperset(outputs):
            return ""
        if self.disagreements < _NOTHING_LEFT * self.runs:
            return ""
        return (
            f"nothing is left to compare: the baseline disagrees with itself in {self.disagreements} of {self.runs} "
            "repeated copies, in every output"
        )
