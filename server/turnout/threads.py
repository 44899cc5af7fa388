"""Threads for work that blocks, a bounded number for each thing that may be waited for.

asyncio has one executor for everything, of four to thirty-two threads: whatever hangs in all of them (runs that never
end, a file system that does not answer, a driver) takes everything else with it, the recording of a rollback too. Here
the state store, the repository, what a scrape asks, and loads each have their own.
"""

import asyncio
import atexit
import contextlib
import contextvars
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, NoReturn, ParamSpec, TypeVar

from turnout.errors import UnavailableError

_IDLE_SECONDS = 10.0
"""After which a thread without a call ends."""

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Executor):
    """Up to `count` threads, started as they are needed, that run one call after the other.

    They are daemons, so that a call that hangs holds no process's end up, as it would in `ThreadPoolExecutor`. They end
    when nothing was to do for a while.
    """

    def __init__(self, name: str, count: int = 1, begin: Callable[[], object] | None = None) -> None:
        """Prepares; no thread is started before the first call.

        Args:
            name: Of the threads, before a number.
            count: Most threads, 1 or more.
            begin: Called in each thread before its first call.
        """
        self._name = name
        self._count = count
        self._begin = begin
        self._changed = threading.Condition()  # guards all that follows
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._idle = 0
        self._started = 0
        self._closed = False

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns what the call returns, which runs in a thread, with the context variables of the caller.

        A caller that is cancelled cancels its call too, if that has not begun.
        """
        context = contextvars.copy_context()
        return await asyncio.wrap_future(self.submit(context.run, functools.partial(call, *args, **kwargs)))

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Queues a call.

        Raises:
            UnavailableError: It was shut down.
            RuntimeError: No thread can be started.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise UnavailableError(f"what runs in the {self._name} threads is closed")
            # A thread that was woken for a call counts as idle until it takes it, and the call as queued.
            if len(self._calls) >= self._idle and self._started < self._count:
                thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
                thread.start()
                self._started += 1
            self._calls.append((future, functools.partial(call, *args, **kwargs)))
            self._changed.notify()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """Accepts no more calls, and cancels those that have not begun unless told otherwise.

        Args:
            wait: Until those that have begun have ended.
            cancel_futures: Cancel the calls that have not begun.
        """
        with self._changed:
            self._closed = True
            cancelled = list(self._calls) if cancel_futures else []
            if cancel_futures:
                self._calls.clear()
            self._changed.notify_all()
            if wait:
                self._changed.wait_for(lambda: not self._started)
        for future, _ in cancelled:
            future.cancel()

    def _work(self) -> None:
        try:
            if self._begin is not None:
                self._begin()
            while (taken := self._take()) is not None:
                future, call = taken
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(call())
                    except BaseException as error:  # noqa: BLE001 - it belongs to who waits for the future
                        future.set_exception(error)
                del taken, future, call  # an idle thread keeps nothing
        finally:
            with self._changed:
                self._started -= 1
                self._changed.notify_all()

    def _take(self) -> "tuple[Future[Any], Callable[[], Any]] | None":
        with self._changed:
            while not self._calls:
                if self._closed:
                    return None
                self._idle += 1
                called = self._changed.wait(_IDLE_SECONDS)
                self._idle -= 1
                if not called and not self._calls:
                    return None
            return self._calls.popleft()


def end_process(code: int) -> NoReturn:
    """Ends this process with an exit code, whatever its threads do.

    What is registered for the end is done, as usual. The interpreter's own end is left out: a thread that comes back
    from native code after that is taken down through frames of C++, which aborts the process (SIGABRT, ten times of
    ten with ONNX Runtime). A run that outlasted the drain, or a load that was under way, is such a thread.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
