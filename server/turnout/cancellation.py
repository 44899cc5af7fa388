"""Ending long work that goes on in another thread: hashing, copying, trial runs.

A thread cannot be stopped from outside, so work looks at each of its steps whether it shall go on (`checkpoint`). Which
cancellation it is under is known by context, not handed through every function between: whoever starts work in a thread
says so once.

    with cancellation.applies():      # in the thread that works
        publish(...)
    cancellation.cancel(UnavailableError("the server stops"))     # in any other
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from turnout.errors import TurnoutError


class WorkCancelled(Exception):
    """Work was cancelled. No TurnoutError, since it is not a finding about a version that a gate could report.

    Attributes:
        cause: What whoever waits for the work is told.
    """

    def __init__(self, cause: TurnoutError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Cancellation:
    """Lets one thread end work that another one does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cause: TurnoutError | None = None
        self._stops: list[Callable[[], None]] = []

    def cancel(self, cause: TurnoutError) -> None:
        """Ends what goes on, and what would begin. The first cause counts."""
        with self._lock:
            if self._cause is not None:
                return
            self._cause = cause
            for stop in self._stops:
                stop()

    def check(self) -> None:
        """Checks that nobody cancelled.

        Raises:
            WorkCancelled: Someone did.
        """
        if self._cause is not None:
            raise WorkCancelled(self._cause)

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Has `stop` called on cancellation while the context is entered: it ends what waits and cannot look.

        Raises:
            WorkCancelled: It was cancelled, before or meanwhile.
        """
        with self._lock:
            self.check()
            self._stops.append(stop)
        try:
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)
            self.check()

    @contextlib.contextmanager
    def applies(self) -> Iterator[None]:
        """Puts what this thread does while the context is entered under this cancellation."""
        before = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(before)


_NEVER = Cancellation()
_CURRENT: ContextVar[Cancellation] = ContextVar("cancellation", default=_NEVER)


def current() -> Cancellation:
    """Returns the cancellation that the calling thread works under; one that never comes if there is none."""
    return _CURRENT.get()


def checkpoint() -> None:
    """Goes on, unless the calling thread's work was cancelled.

    Raises:
        WorkCancelled: It was.
    """
    _CURRENT.get().check()
