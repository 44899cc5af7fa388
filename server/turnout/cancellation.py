"""Cancellation of long-running work in another thread, such as hashing, copying and trial runs.

A thread cannot be stopped from outside. Instead, work calls `checkpoint` at each step to check whether it has been
cancelled. The cancellation that applies is found through a context variable, which the code that starts the work sets
once, so it need not be passed through every function.

    with cancellation.applies():      # in the thread that does the work
        publish(...)
    cancellation.cancel(UnavailableError("the server stops"))     # in any other thread
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from turnout.errors import TurnoutError


class WorkCancelled(Exception):
    """Raised when work was cancelled. Not a TurnoutError, because gates report those as findings about a version.

    Attributes:
        cause: Error for the caller who is waiting for the work.
    """

    def __init__(self, cause: TurnoutError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Cancellation:
    """Allows one thread to cancel work that other threads do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cause: TurnoutError | None = None
        self._stops: list[Callable[[], None]] = []

    def cancel(self, cause: TurnoutError) -> None:
        """Cancels current and future work. Only the first call has an effect."""
        with self._lock:
            if self._cause is not None:
                return
            self._cause = cause
            for stop in self._stops:
                stop()

    def check(self) -> None:
        """Checks that the work has not been cancelled.

        Raises:
            WorkCancelled: The work was cancelled.
        """
        if self._cause is not None:
            raise WorkCancelled(self._cause)

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Calls `stop` on cancellation within the context. For work that waits and cannot call `check`.

        Raises:
            WorkCancelled: The work was cancelled before or within the context.
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
        """Applies this cancellation to the work of the current thread within the context."""
        before = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(before)


_NEVER = Cancellation()
_CURRENT: ContextVar[Cancellation] = ContextVar("cancellation", default=_NEVER)


def current() -> Cancellation:
    """Returns the cancellation that applies to the calling thread, or one that is never cancelled if none applies."""
    return _CURRENT.get()


def checkpoint() -> None:
    """Checks that the work of the calling thread has not been cancelled.

    Raises:
        WorkCancelled: The work was cancelled.
    """
    _CURRENT.get().check()
