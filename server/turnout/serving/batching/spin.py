"""How an idle runner waits: it looks for a request for some microseconds before it sleeps, if that has been of use.

To wake a thread takes the event loop a system call and the thread a trip through the scheduler: 10 to 60 microseconds,
as long as a small model runs on a GPU. A runner that looks is there at once. Each look gives the interpreter's lock
away, so that the event loop goes on meanwhile.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_MOST_MISSES = 16
"""Idle times in a row that were longer than the spin, after which it is not tried any more."""


@dataclass(slots=True)
class Spin:
    """Whether looking has been of use. Owned by one thread at a time.

    Attributes:
        seconds: Longest that a runner looks; 0.0 for not at all.
        misses: Idle times in a row that were longer.
    """

    seconds: float
    misses: int = 0

    @property
    def worthwhile(self) -> bool:
        """Whether to look before sleeping: of the latest idle times one was short enough."""
        return self.seconds > 0 and self.misses < _MOST_MISSES

    def idled(self, seconds: float) -> None:
        """Notes how long a runner was idle until it was called, whether it looked or slept."""
        self.misses = 0 if seconds <= self.seconds else self.misses + 1


def look(called: threading.Lock, seconds: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Looks whether a lock can be had, for so many seconds; tells whether it was."""
    until = clock() + seconds
    while not called.acquire(blocking=False):
        if clock() >= until:
            return False
        time.sleep(0)  # gives the interpreter's lock away, and sleeps not at all
    return True
