"""When a child process that died is started again. Pure."""

from dataclasses import dataclass

_AT_ONCE = 2
"""Deaths in a row after which the next start is still at once: whoever waits should not wait longer than it takes."""

_FIRST_SECONDS = 0.1
_MOST_SECONDS = 30.0
_MOST_ONCE_LOADED_SECONDS = 0.5
"""A child that loaded and died of a request is back soon, whatever comes: a client that sends nothing else must not
keep others from the version for half a minute. At most some half of a core goes into starting it."""


@dataclass(slots=True)
class Backoff:
    """Counts the deaths of a version's children that answered nothing.

    A version whose children die before they answer anything would otherwise keep a core busy with starting them. One
    that answers other requests in between is started again at once: those are worth more than the core.

    Attributes:
        deaths: In a row, without an answer in between.
    """

    deaths: int = 0
    _most: float = _MOST_SECONDS

    def died(self, *, loaded: bool) -> None:
        """Counts the death of a child, or a start that failed.

        Args:
            loaded: It had loaded the version, and died of a request.
        """
        self.deaths += 1
        self._most = _MOST_ONCE_LOADED_SECONDS if loaded else _MOST_SECONDS

    def answered(self) -> None:
        """Notes that a child answered a request."""
        self.deaths = 0

    @property
    def delay(self) -> float:
        """Seconds until the next start: 0, then 0.1, then twice as long each time, up to 30, or 0.5 once it loads."""
        if self.deaths <= _AT_ONCE:
            return 0.0
        return min(_FIRST_SECONDS * 2.0 ** min(self.deaths - _AT_ONCE - 1, 20), self._most)
