"""Ratios that keep their counts, so that the ratios of several processes can be summed. Pure."""

from typing import NamedTuple


class Ratio(NamedTuple):
    """A share of a whole.

    Attributes:
        part, whole: Numerator and denominator; `whole` is above 0.
    """

    part: float
    whole: float

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.part / self.whole if self.whole else 0.0


class ShadowAgreement(NamedTuple):
    """How often a shadow agrees with the baseline, corrected for how often the baseline disagrees with itself.

    Attributes:
        disagreed, compared: Number of copies on which they disagreed, and of all compared copies, which is above 0.
        noise, noise_runs: Number of copies on which the baseline disagreed with itself, and of those that it ran twice.
    """

    disagreed: float
    compared: float
    noise: float
    noise_runs: float

    @property
    def value(self) -> float:
        """The share of the copies on which they agree, 0 to 1."""
        noise = self.noise / self.noise_runs if self.noise_runs else 0.0
        return 1.0 - max(self.disagreed / self.compared - noise, 0.0) if self.compared else 0.0
