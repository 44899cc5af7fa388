"""Loads a version that builds engines, which takes minutes and cannot be stopped.

It is done in a thread that is left behind when it takes too long, or when the server stops. What it brings then is
freed at once. Engines that were kept meanwhile are there for the next load.
"""

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from turnout.cancellation import checkpoint
from turnout.errors import ModelTimedOut
from turnout.threads import Threads

_LOOK_SECONDS = 0.1
"""How often whoever waits looks whether the server stops."""

T = TypeVar("T")


class EngineBuilds:
    """The builds that go on in this process, by what they build."""

    def __init__(self) -> None:
        self._changed = threading.Lock()
        self._going: set[str] = set()

    def within(self, seconds: float, name: str, build: Callable[[], T], discard: Callable[[T], None]) -> T:
        """Returns what a build brings.

        Args:
            seconds: That it may take.
            name: Of what is built: only one build of that goes on at a time, and one that was left behind counts.
            build: Runs in a thread of its own.
            discard: Frees what a build brings that nobody waits for any more.

        Raises:
            ModelTimedOut: It takes longer, or an earlier one still goes on.
            WorkCancelled: Whoever waits is to stop.
            Exception: What `build` raised.
        """
        with self._changed:
            if name in self._going:
                raise ModelTimedOut("an earlier build, which took too long, still goes on")
            self._going.add(name)
        threads = Threads("engines")
        future = threads.submit(contextvars.copy_context().run, build)
        threads.shutdown(cancel_futures=False)
        future.add_done_callback(lambda _: self._ended(name))
        try:
            self._wait(future, seconds)
            return future.result()
        except BaseException:
            future.add_done_callback(lambda done: None if done.exception() else discard(done.result()))
            raise
        finally:
            del future  # its error's traceback leads here, and would keep in memory what failed

    def _wait(self, future: "Future[T]", seconds: float) -> None:
        end = time.monotonic() + seconds
        while not wait([future], _LOOK_SECONDS).done:
            checkpoint()
            if time.monotonic() >= end:
                raise ModelTimedOut(
                    f"its engines were not built within {seconds:g} s ([runtime] tensorrt_build_timeout_s)"
                )

    def _ended(self, name: str) -> None:
        with self._changed:
            self._going.discard(name)


ENGINE_BUILDS = EngineBuilds()
"""Of this process: they share its devices."""
