"""A runner thread that is there before it has requests: what it runs with was made in it, while its version was loaded.

ONNX Runtime keeps captured CUDA graphs by thread ("CUDA EP maintains a separate cuda graph per thread", cuda_graph.cc):
the thread that captures is the one that launches.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

from turnout.serving.sessions.session import MakeRunner, Run

_MAKE_SECONDS = 300.0
"""Longest that the thread may take to make what it runs with."""


class PreparedRunner:
    """A `MakeRunner` that brings its thread; whoever calls it in another thread gets what `otherwise` makes."""

    def __init__(
        self, start_thread: Callable[[Callable[[], None]], None], make: MakeRunner, otherwise: MakeRunner
    ) -> None:
        """Starts the thread, and waits until it has made what it runs with.

        Args:
            start_thread: Runs its argument in a new thread of ordinary priority; this one may have a low one.
            make: Makes what the thread runs with, in it.
            otherwise: Makes what other threads run with that call this runner.

        Raises:
            Exception: What `make` raised.
            TimeoutError: It takes too long.
        """
        self._make = make
        self._otherwise = otherwise
        self._run: Run | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._made, self._ended = threading.Event(), threading.Event()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._taken = threading.Lock()
        self._stack = contextlib.ExitStack()
        start_thread(self._live)
        if not self._made.wait(_MAKE_SECONDS):
            self._work.put(None)  # it ends as soon as it is done
            raise TimeoutError(f"a runner was not ready within {_MAKE_SECONDS:.0f} s")
        if self._failure is not None:
            raise self._failure

    def start(self, work: Callable[[], None]) -> bool:
        """Has the thread do `work`, which calls this runner; tells whether it was free for that, as it is once."""
        if not self._taken.acquire(blocking=False):
            return False
        self._work.put(work)
        return True

    def close(self) -> None:
        """Ends the thread if it was never started; waits until it has ended, and what it runs with is freed."""
        if self._taken.acquire(blocking=False):
            self._work.put(None)
        self._ended.wait()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Run]:
        """Yields what was made, in the thread that made it; leaving the context frees it."""
        run = self._run if threading.current_thread() is self._thread else None
        if run is None:
            with self._otherwise() as other:
                yield other
            return
        self._run = None
        with self._stack:
            yield run

    def _live(self) -> None:
        self._thread = threading.current_thread()
        try:
            with self._stack:
                try:
                    self._run = self._stack.enter_context(self._make())
                except BaseException as error:  # noqa: BLE001 - told to who waits for it
                    self._failure = error
                    return
                finally:
                    self._made.set()
                if work := self._work.get():
                    work()  # its call of this runner leaves the stack
                self._run = None
        finally:
            self._ended.set()
