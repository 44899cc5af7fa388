"""Time limits for runs in a child process."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def bounded_time(seconds: float) -> Iterator[None]:
    """Ends this process with SIGALRM if the block takes longer; nothing else can stop a kernel that hangs."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
