"""Ratios kept as their counts, so that those of several processes can be added up. Pure."""

from typing import NamedTuple


class Ratio(NamedTuple):
    """A share of a whole.

    Attributes:
        part, whole: The counts; `whole` is above 0.
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
        disagreed, compared: Numbers of copies; `compared` is above 0.
        noise, noise_runs: Copies on which the baseline disagreed with itself, and those that it ran twice.
    """

    disagreed: float
    compared: float
    noise: float
    noise_runs: float

    @property
    def value(self) -> float:
        """The share that agrees, 0 to 1."""
        noise = self.noise / self.noise_runs if self.noise_runs else 0.0
        return 1.0 - max(self.disagreed / self.compared - noise, 0.0) if self.compared else 0.0
