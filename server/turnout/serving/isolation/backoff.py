"""Decides when a child process that died is started again. Pure."""

from dataclasses import dataclass

_AT_ONCE = 2
"""Number of consecutive deaths after which the next start is still immediate, so that waiting requests lose no time."""

_FIRST_SECONDS = 0.1
_MOST_SECONDS = 30.0
_MOST_ONCE_LOADED_SECONDS = 0.5
"""Maximum delay for a child that had loaded and died of a request. It is short, so that a client that sends only such
requests cannot block others for half a minute. Starting the child then takes at most about half a core."""


@dataclass(slots=True)
class Backoff:
    """Counts consecutive deaths of a version's children, without an answer in between.

    Without a delay, a version whose children die before they answer anything would keep a core busy with starts. A
    version that answers other requests in between is restarted immediately, since those are worth more than the core.
    """

    deaths: int = 0
    _most: float = _MOST_SECONDS

    def died(self, *, loaded: bool) -> None:
        """Counts the death of a child, or a failed start.

        If the child had `loaded` the version, a request killed it.
        """
        self.deaths += 1
        self._most = _MOST_ONCE_LOADED_SECONDS if loaded else _MOST_SECONDS

    def answered(self) -> None:
        """Records that a child answered a request."""
        self.deaths = 0

    @property
    def delay(self) -> float:
        """Seconds until the next start: 0, then 0.1, doubling up to 30, or up to 0.5 once the version has loaded."""
        if self.deaths <= _AT_ONCE:
            return 0.0
        return min(_FIRST_SECONDS * 2.0 ** min(self.deaths - _AT_ONCE - 1, 20), self._most)
