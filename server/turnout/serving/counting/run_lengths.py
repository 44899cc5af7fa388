"""Runs of consecutive bad requests."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class RunLengths:
    """The runs of one kind of bad requests, in the order in which an arm's requests end. Used on the event loop only.

    Attributes:
        present: Length of the present run; 0 if the last request to end was not bad.
        squares: Growth of the sum of the squares of all run lengths.
        begun: Number of runs that have begun.
    """

    present: int = 0
    squares: int = 0
    begun: int = 0

    def add(self, requests: int = 1) -> None:
        """Counts consecutive bad requests."""
        self.begun += not self.present
        self.squares += requests * (requests + 2 * self.present)
        self.present += requests

    def end(self) -> None:
        """Ends the present run, after a request that was not bad."""
        self.present = 0

    def carried_on(self) -> "RunLengths":
        """Returns the run lengths for the next tick, in which the present run continues and does not count as begun."""
        return RunLengths(self.present)
