"""How an idle runner waits: it spins for some microseconds before it sleeps, if spinning has paid off lately.

Waking a thread costs the event loop a system call and the thread a trip through the scheduler: 10 to 60 microseconds,
as long as a small model runs on a GPU. A spinning runner reacts at once. Each check releases the GIL, so that the event
loop can go on meanwhile.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_MOST_MISSES = 16
"""Number of consecutive idle times longer than the spin after which spinning stops."""


@dataclass(slots=True)
class Spin:
    """Tracks whether spinning pays off. Owned by one thread at a time.

    Attributes:
        seconds: Longest time in seconds that a runner spins; 0.0 for no spinning.
        misses: Number of consecutive idle times that were longer.
    """

    seconds: float
    misses: int = 0

    @property
    def worthwhile(self) -> bool:
        """Whether to spin before sleeping: one of the latest idle times was short enough."""
        return self.seconds > 0 and self.misses < _MOST_MISSES

    def idled(self, seconds: float) -> None:
        """Records how long a runner was idle, in seconds, until it was woken, whether it spun or slept."""
        self.misses = 0 if seconds <= self.seconds else self.misses + 1


def look(called: threading.Lock, seconds: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Tries to acquire a lock for `seconds` without sleeping; returns whether it was acquired."""
    until = clock() + seconds
    while not called.acquire(blocking=False):
        if clock() >= until:
            return False
        time.sleep(0)  # releases the GIL without sleeping
    return True
