"""Decides when to restart a worker that has ended, and when to give up. Pure."""

from dataclasses import dataclass

_MOST_SECONDS = 30.0

STEADY_SECONDS = 10.0
"""Time in seconds that a worker must have served so that its death does not count as early."""

MOST_EARLY_DEATHS = 5
"""Number of consecutive early deaths after which a worker is hopeless. The supervisor gives up if all workers are."""


@dataclass(slots=True)
class Restarts:
    """The history of one worker's deaths.

    Attributes:
        early: Number of consecutive early deaths: deaths within `STEADY_SECONDS` of becoming ready, or before that.
        first_seconds: Pause in seconds after the second consecutive early death.
    """

    count: int = 0
    early: int = 0
    first_seconds: float = 0.5

    def died(self, served_seconds: float) -> float:
        """Records a death, and returns the time in seconds to wait before the restart.

        The first restart is immediate. After that the pause doubles each time, up to 30 s, because a start uses a core
        for some seconds. In the meantime, the other workers accept the connections. A worker that was never ready
        served for 0 seconds.
        """
        self.early = 0 if served_seconds >= STEADY_SECONDS else self.early + 1
        self.count += 1
        return 0.0 if self.early <= 1 else float(min(self.first_seconds * 2 ** (self.early - 2), _MOST_SECONDS))

    @property
    def hopeless(self) -> bool:
        """Whether the worker has died early too often in a row."""
        return self.early >= MOST_EARLY_DEATHS
