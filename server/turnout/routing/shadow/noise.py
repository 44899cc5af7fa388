"""The baseline's own noise, which is subtracted from a shadow's disagreement. Pure.

A model that draws random numbers differs from itself, and so does one whose kernels do not sum in the same order each
time. Copies are run on the baseline once more, and outputs that differ there are *noisy*.

A disagreement counts where an output that was never seen noisy differs. Where only noisy outputs differ, it counts with
the chance p0 / (v + p0): v is the rate at which the baseline disagrees with itself (the upper end of what the repeats
allow), p0 the rate that the plan allows. A shadow that is no noisier than the baseline, and p0 worse, then disagrees in
p0 of its copies at most, so that the test against p0 stays what it is. As v grows less and less is left, and in the end
nothing.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

EARLY_REPEATS = 32
"""Copies that are repeated on the baseline in any case, from the first one on: a rate of 10 % hides from so many in one
of 30 models."""

REPEATS_A_DISAGREEMENT = 10
"""Repeats for each disagreement: what a verdict could rest on is looked at more closely than what agrees."""

NEEDED_REPEATS = 16
"""Repeats before anything is judged."""

_SIGMAS = 2.33
_NOTHING_LEFT = 0.5
_GOLDEN = 0.6180339887498949


@dataclass(slots=True)
class Noise:
    """What is known of a baseline's disagreement with itself.

    An output that differs in its form (another shape, NaN on one side) goes by another name than one whose values do.

    Attributes:
        measured: Copies are repeated at all; else the baseline counts as one that never differs from itself.
        runs: Repeats.
        disagreements: Those whose answer differed from the first.
        outputs: Those outputs that ever did.
    """

    measured: bool = True
    runs: int = 0
    disagreements: int = 0
    outputs: set[str] = field(default_factory=set)

    def take(self, differing: Collection[str]) -> None:
        """Takes one repeat, with the outputs that differed from the first answer."""
        self.runs += 1
        self.disagreements += bool(differing)
        self.outputs.update(differing)

    def wanted(self, compared: int, disagreed: int) -> bool:
        """Tells whether more repeats are needed than the configured share.

        Args:
            compared: Copies that were compared so far.
            disagreed: Those that disagreed.
        """
        return self.measured and self.runs < min(compared, EARLY_REPEATS + REPEATS_A_DISAGREEMENT * disagreed)

    @property
    def known(self) -> bool:
        """Whether enough repeats were run for anything to be judged."""
        return not self.measured or self.runs >= NEEDED_REPEATS

    @property
    def rate(self) -> float:
        """The rate at which the baseline disagrees with itself: the upper end of Wilson's interval (1927), 99 %."""
        n, p, z = self.runs, self.disagreements / max(self.runs, 1), _SIGMAS
        if not n or not self.disagreements:
            return 0.0
        middle, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return min((middle + width) / (1 + z * z / n), 1.0)

    def counts(self, differing: Collection[str], number: int, allowed: float) -> bool:
        """Tells whether a disagreement counts.

        Args:
            differing: Outputs that differ beyond tolerance, as `AnswerComparison` names them.
            number: Of the copy, which decides in place of chance: it says nothing about the copy's outcome.
            allowed: Rate of disagreements that the plan allows.
        """
        if not self.outputs.issuperset(differing):
            return True
        if self.disagreements >= _NOTHING_LEFT * self.runs:
            return False
        return (number * _GOLDEN) % 1.0 < allowed / (self.rate + allowed)

    def nothing_left(self, outputs: Collection[str]) -> str:
        """Returns in a sentence why nothing can be compared, "" if something can.

        Args:
            outputs: All that were compared.
        """
        if not self.runs or not self.known or not self.outputs.issuperset(outputs):
            return ""
        if self.disagreements < _NOTHING_LEFT * self.runs:
            return ""
        return (
            f"nothing is left to compare: the baseline disagrees with itself in {self.disagreements} of {self.runs} "
            "repeated copies, in every output"
        )
