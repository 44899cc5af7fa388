"""When a worker that ended is started again, and when its parent gives up. Pure."""

from dataclasses import dataclass

_MOST_SECONDS = 30.0

STEADY_SECONDS = 10.0
"""A worker that served for so long did not die at once, whatever ended it."""

MOST_EARLY_DEATHS = 5
"""Early deaths in a row after which a worker counts as one that cannot live."""


@dataclass(slots=True)
class Restarts:
    """The deaths of one worker.

    Attributes:
        count: Times that it was started again.
        first_seconds: Pause after the second early death in a row.
        early: Deaths in a row, each less than `STEADY_SECONDS` after it was ready, or before that.
    """

    count: int = 0
    early: int = 0
    first_seconds: float = 0.5

    def died(self, served_seconds: float) -> float:
        """Counts a death; returns the seconds until the next start.

        The first is at once: the others have its connections meanwhile. After that the time doubles, up to half a
        minute, since a start takes a core for some seconds.

        Args:
            served_seconds: From its being ready until its end; 0 if it never was.
        """
        self.early = 0 if served_seconds >= STEADY_SECONDS else self.early + 1
        self.count += 1
        return 0.0 if self.early <= 1 else float(min(self.first_seconds * 2 ** (self.early - 2), _MOST_SECONDS))

    @property
    def hopeless(self) -> bool:
        """True if it died at once again and again."""
        return self.early >= MOST_EARLY_DEATHS
