"""A runner thread that is started, with its resources, while its version is loading.

ONNX Runtime keeps captured CUDA graphs by thread ("CUDA EP maintains a separate cuda graph per thread", cuda_graph.cc),
so the thread that captures must be the one that launches.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

from turnout.serving.sessions.session import MakeRunner, Run

_MAKE_SECONDS = 300.0
"""Time limit in seconds for the thread to create its resources."""


class PreparedRunner:
    """A `MakeRunner` with its own thread. Other threads that call it get the result of `otherwise`."""

    def __init__(
        self, start_thread: Callable[[Callable[[], None]], None], make: MakeRunner, otherwise: MakeRunner
    ) -> None:
        """Starts the thread and waits until `make` has made its runner there. Raises what `make` raises, or
        TimeoutError if that takes too long.

        `start_thread` runs its argument in a new thread of ordinary priority; the calling thread's may be low.
        `otherwise` makes the runner for other threads that call this object.
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
            self._work.put(None)  # makes the thread end when `make` is done
            raise TimeoutError(f"a runner was not ready within {_MAKE_SECONDS:.0f} s")
        if self._failure is not None:
            raise self._failure

    def start(self, work: Callable[[], None]) -> bool:
        """Runs `work`, which calls this object, in the thread; returns whether it was free. Succeeds only once."""
        if not self._taken.acquire(blocking=False):
            return False
        self._work.put(work)
        return True

    def close(self) -> None:
        """Ends the thread if no work was started; waits until it has ended and its resources are freed."""
        if self._taken.acquire(blocking=False):
            self._work.put(None)
        self._ended.wait()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Run]:
        """Yields the prepared runner in its own thread; it is freed when the context exits."""
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
                except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
                    self._failure = error
                    return
                finally:
                    self._made.set()
                if work := self._work.get():
                    work()  # its call of this object closes the stack
                self._run = None
        finally:
            self._ended.set()
