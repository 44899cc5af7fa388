"""Decides when to restart a worker that ended, and when to give up. Pure."""

from dataclasses import dataclass

_MOST_SECONDS = 30.0

STEADY_SECONDS = 10.0
"""A worker that served at least this long did not die early."""

MOST_EARLY_DEATHS = 5
"""Early deaths in a row after which the parent gives up."""


@dataclass(slots=True)
class Restarts:
    """The deaths of one worker.

    Attributes:
        count: Number of restarts.
        first_seconds: Pause after the second early death in a row.
        early: Deaths in a row, each less than `STEADY_SECONDS` after it was ready, or before that.
    """

    count: int = 0
    early: int = 0
    first_seconds: float = 0.5

    def died(self, served_seconds: float) -> float:
        """Counts a death; returns the seconds until the next start.

        The first is at once. After that the time doubles, up to half a minute, since a start takes a core for some
        seconds; the other workers have its connections meanwhile.

        Args:
            served_seconds: Time from ready to its end; 0 if it never was ready.
        """
        self.early = 0 if served_seconds >= STEADY_SECONDS else self.early + 1
        self.count += 1
        return 0.0 if self.early <= 1 else float(min(self.first_seconds * 2 ** (self.early - 2), _MOST_SECONDS))

    @property
    def hopeless(self) -> bool:
        """Whether it has died early too often."""
        return self.early >= MOST_EARLY_DEATHS
