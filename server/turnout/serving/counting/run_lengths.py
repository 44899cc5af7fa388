"""Runs of bad requests that ended one right after the other."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class RunLengths:
    """The runs of one kind of bad requests, in the order in which an arm's requests end. Used on the event loop only.

    Attributes:
        present: Length of the run that goes on; 0 if the request that ended last was not bad.
        squares: By how much the sum of the squares of all lengths has grown.
        begun: Runs that have begun.
    """

    present: int = 0
    squares: int = 0
    begun: int = 0

    def add(self, requests: int = 1) -> None:
        """Counts requests that were bad, one right after the other."""
        self.begun += not self.present
        self.squares += requests * (requests + 2 * self.present)
        self.present += requests

    def end(self) -> None:
        """Notes a request that was not bad."""
        self.present = 0

    def carried_on(self) -> "RunLengths":
        """Returns the runs of the next tick: one that goes on there is not another one."""
        return RunLengths(self.present)
