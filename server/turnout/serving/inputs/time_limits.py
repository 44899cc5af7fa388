"""How long one run of a child may take."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def bounded_time(seconds: float) -> Iterator[None]:
    """Ends this process, by SIGALRM, when the block takes longer: nothing else ends one kernel that does not."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
