"""Hands calls from runner threads to the event loop in groups: one wake-up for all that wait.

Each wake-up of asyncio's own loop is a system call of the thread and a turn of the loop. libuv puts wake-ups together
itself (`uv_async_send`), and what is handed to it goes the shorter way
(docs/decisions/0075-a-runner-that-is-near.md has what was measured).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


class HandBack:
    """Calls functions on an event loop, in the order that they were handed over."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prepares; nothing is called yet."""
        self._loop = loop
        self._calls: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._woken = False
        self._groups_itself = type(loop).__module__.partition(".")[0] == "uvloop"

    def call(self, function: Callable[[_T], None], argument: _T) -> None:
        """Has a function called on the event loop soon. From any thread; a closed loop calls nothing any more."""
        try:
            if self._groups_itself:
                self._loop.call_soon_threadsafe(function, argument)
                return
            self._calls.append((function, argument))
            if not self._woken:
                self._woken = True  # two threads at once may both find it unset: one wake-up too many does no harm
                self._loop.call_soon_threadsafe(self._run)
        except RuntimeError:  # closed: nobody is left to answer
            return

    def _run(self) -> None:
        self._woken = False  # first: what is added from here on wakes the loop again
        for _ in range(len(self._calls)):
            function, argument = self._calls.popleft()
            try:
                function(argument)
            except Exception as error:  # noqa: BLE001 - one that fails takes no other along
                self._loop.call_exception_handler({"message": "an answer was not delivered", "exception": error})
