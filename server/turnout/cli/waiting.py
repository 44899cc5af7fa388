"""Reports the progress of a command that waits for minutes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from turnout.text.quantities import progress_text


@contextmanager
def progress_notes(say: Callable[[str], None], what: str, every: float) -> Iterator[None]:
    """Reports every `every` seconds, while the block runs, what it does and for how long; never if `what` is "". Calls
    `say` in another thread.
    """
    if not what:
        yield
        return
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(every):
            say(progress_text(what, time.monotonic() - began))

    telling = threading.Thread(target=tell, name="waiting", daemon=True)
    telling.start()
    try:
        yield
    finally:
        ended.set()
        telling.join()
