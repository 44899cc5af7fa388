"""Commands that hold processes and directories let go of them when they are asked to end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def unwinding() -> Iterator[None]:
    """Has SIGTERM and the terminal's end do what Ctrl-C does: leave every block in order, then end with 128 + number.

    By default Python ends where it stands, and what it built or started is left to others.
    """
    if threading.current_thread() is not threading.main_thread():  # only that thread may set handlers
        yield
        return
    before = {number: signal.signal(number, _end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
