"""When a child process that died is started again. Pure."""

from dataclasses import dataclass

_AT_ONCE = 2
"""Deaths in a row after which the next start is still at once: whoever waits should not wait longer than it takes."""

_FIRST_SECONDS = 0.1
_MOST_SECONDS = 30.0


@dataclass(slots=True)
class Backoff:
    """Counts the deaths of a version's children that answered nothing.

    A version whose children die before they answer anything would otherwise keep a core busy with starting them. One
    that answers other requests in between is started again at once: those are worth more than the core.

    Attributes:
        deaths: In a row, without an answer in between.
    """

    deaths: int = 0

    def died(self) -> None:
        """Counts the death of a child, or a start that failed."""
        self.deaths += 1

    def answered(self) -> None:
        """Notes that a child answered a request."""
        self.deaths = 0

    @property
    def delay(self) -> float:
        """Seconds until the next start: 0, then 0.1, and twice as long each time, up to 30."""
        if self.deaths <= _AT_ONCE:
            return 0.0
        return min(_FIRST_SECONDS * 2.0 ** min(self.deaths - _AT_ONCE - 1, 20), _MOST_SECONDS)
