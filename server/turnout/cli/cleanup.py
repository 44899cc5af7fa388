"""Lets commands clean up their processes and directories when they are terminated."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def unwinding() -> Iterator[None]:
    """Handles SIGTERM and SIGHUP like Ctrl-C: every block is unwound, then the process exits with 128 + the signal.

    By default Python exits at once, which would leave temporary files and child processes behind.
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
