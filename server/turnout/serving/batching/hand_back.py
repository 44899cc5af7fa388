"""Passes calls from runner threads to the event loop in groups, with one wake-up for all that wait.

Each wake-up of asyncio's own event loop costs the thread a system call and the loop an iteration. libuv combines
wake-ups itself (`uv_async_send`), so calls to it take the shorter path
(measurements: docs/decisions/0075-a-runner-that-is-near.md).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


class HandBack:
    """Calls functions on an event loop, in the order in which they were passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._woken = False
        self._groups_itself = type(loop).__module__.partition(".")[0] == "uvloop"

    def call(self, function: Callable[[_T], None], argument: _T) -> None:
        """Schedules a call on the event loop. Safe to call from any thread; does nothing once the loop is closed."""
        try:
            if self._groups_itself:
                self._loop.call_soon_threadsafe(function, argument)
                return
            self._calls.append((function, argument))
            if not self._woken:
                self._woken = True  # two threads may both find it unset: an extra wake-up does no harm
                self._loop.call_soon_threadsafe(self._run)
        except RuntimeError:  # the loop is closed, so no caller waits
            return

    def _run(self) -> None:
        self._woken = False  # reset first, so that calls added from here on wake the loop again
        for _ in range(len(self._calls)):
            function, argument = self._calls.popleft()
            try:
                function(argument)
            except Exception as error:  # noqa: BLE001 - one failing call must not prevent the others
                self._loop.call_exception_handler({"message": "an answer was not delivered", "exception": error})
