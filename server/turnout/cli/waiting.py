"""Prints the progress of a command that waits for minutes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from turnout.serving.tensorrt.fallback import progress


@contextmanager
def progress_notes(say: Callable[[str], None], what: str, every: float) -> Iterator[None]:
    """Reports, every so many seconds while the block runs, its activity and for how long; nothing if that is "".

    `say` is called in another thread.
    """
    if not what:
        yield
        return
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(every):
            say(progress(what, time.monotonic() - began))

    telling = threading.Thread(target=tell, name="waiting", daemon=True)
    telling.start()
    try:
        yield
    finally:
        ended.set()
        telling.join()
