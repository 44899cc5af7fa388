"""Runs of consecutive bad requests."""

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class PresentRun:
    """The length of the present run of one kind of bad requests; 0 if the last request to end was not bad.

    All ticks of an arm share it, since their requests end in turn.
    """

    length: int = 0


@dataclass(slots=True, eq=False)
class RunLengths:
    """The runs of one kind of bad requests, in the order in which an arm's requests end. Used on the event loop only.

    Attributes:
        squares: Growth of the sum of the squares of all run lengths by the requests of this tick.
        begun: Number of runs that began with a request of this tick.
    """

    present: PresentRun = field(default_factory=PresentRun)
    squares: int = 0
    begun: int = 0

    def add(self, requests: int = 1) -> None:
        """Counts consecutive bad requests."""
        present = self.present
        self.begun += not present.length
        self.squares += requests * (requests + 2 * present.length)
        present.length += requests

    def end(self) -> None:
        """Ends the present run, after a request that was not bad."""
        self.present.length = 0

    def carried_on(self) -> "RunLengths":
        """Returns the run lengths for the next tick, which continue the same run."""
        return RunLengths(self.present)
