"""Loads a version whose engines are built, which takes minutes and cannot be stopped.

The load runs in a thread that is abandoned when it takes too long or the server stops. Its result is then freed at
once. Engines cached in the meantime are used by the next load.
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
"""Interval in seconds at which a waiting thread checks whether the server stops."""

T = TypeVar("T")


class EngineBuilds:
    """The builds in progress in this process, by name."""

    def __init__(self) -> None:
        self._changed = threading.Lock()
        self._going: set[str] = set()

    def within(self, seconds: float, name: str, build: Callable[[], T], discard: Callable[[T], None]) -> T:
        """Returns the result of a build, which runs in a new thread; that of an abandoned build is freed by `discard`.

        Only one build of a name runs at a time, including abandoned builds.

        Raises:
            ModelTimedOut: The build takes longer than `seconds`, or an earlier one is still running.
            WorkCancelled: The waiting thread was cancelled.
            Exception: `build` raised it.
        """
        with self._changed:
            if name in self._going:
                raise ModelTimedOut("an earlier build that took too long is still running")
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
            del future  # the traceback of its error refers to this frame and would keep in memory what failed

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
"""The builds of this process, which share its devices."""
