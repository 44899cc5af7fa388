"""Thread pools for blocking work, with a separate pool of limited size for each resource that may block.

asyncio has a single default executor of 4 to 32 threads. If all of them hang (in runs that never end, in a file system
or driver that does not respond), all other work stops, including the recording of a rollback. Therefore the state
store, the repository, scrapes, loads and others each have their own pool.
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
"""Time in seconds after which an idle thread ends."""

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Executor):
    """A pool of up to `count` threads, which are started when they are needed and end when they have been idle.

    The threads are daemon threads, so that a call that hangs does not delay the end of the process, as it would with
    `ThreadPoolExecutor`.
    """

    def __init__(self, name: str, count: int = 1, begin: Callable[[], object] | None = None) -> None:
        """Initializes the pool. No thread is started before the first call.

        Args:
            name: Prefix of the threads' names, which is followed by a number.
            count: Maximum number of threads, 1 or more.
            begin: Function that each thread calls before its first call.
        """
        self._name = name
        self._count = count
        self._begin = begin
        self._changed = threading.Condition()  # guards the attributes below
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._idle = 0
        self._started = 0
        self._closed = False

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a call in a thread, with the caller's context variables, and returns its result.

        If the caller is cancelled, the call is cancelled as well, unless it has already started.
        """
        context = contextvars.copy_context()
        return await asyncio.wrap_future(self.submit(context.run, functools.partial(call, *args, **kwargs)))

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Queues a call.

        Raises:
            UnavailableError: The pool was shut down.
            RuntimeError: No thread can be started.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise UnavailableError(f"what runs in the {self._name} threads is closed")
            # Until a thread that was woken takes its call, the thread counts as idle and the call as queued.
            if len(self._calls) >= self._idle and self._started < self._count:
                thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
                thread.start()
                self._started += 1
            self._calls.append((future, functools.partial(call, *args, **kwargs)))
            self._changed.notify()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """Stops accepting calls.

        Args:
            wait: Whether to wait for the remaining calls.
            cancel_futures: Whether to cancel the calls that have not started.
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
                    except BaseException as error:  # noqa: BLE001 - raised to the code that awaits the future
                        future.set_exception(error)
                del taken, future, call  # an idle thread must not keep objects alive
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
    """Ends this process with an exit code, regardless of its running threads.

    Runs the functions registered with `atexit`, but skips the shutdown of the interpreter. After a shutdown, a thread
    that returns from native code is unwound through C++ frames, which aborts the process (SIGABRT, in 10 of 10 cases
    with ONNX Runtime). Such threads are runs that outlast the drain, and loads in progress.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
