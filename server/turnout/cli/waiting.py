"""What a command says while it waits for something that takes minutes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from turnout.serving.tensorrt.fallback import progress


@contextmanager
def progress_notes(say: Callable[[str], None], what: str, every: float) -> Iterator[None]:
    """Says what goes on and for how long, time and again, while the block runs.

    Args:
        say: Shows a sentence; called in another thread.
        what: Goes on; "" for nothing that would be worth a word.
        every: Seconds between two sentences.
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
