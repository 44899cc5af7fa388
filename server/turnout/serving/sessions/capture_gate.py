"""Keeps everything else that uses CUDA in this process away while a CUDA graph is captured.

ONNX Runtime captures in CUDA's global mode (`cudaStreamCaptureModeGlobal` in its cuda_graph.cc): until the capture
ends, calls such as `cudaMalloc` fail in every thread of the process. So runs, loads and allocations on a GPU pass a
gate, and a capture waits for a moment in which nobody is inside. It never waits for long, since those who come
meanwhile wait for it: a run that hangs may cost a version its graphs, and no other version its service.

Where no version is to be captured, nobody passes a gate (`GatedSessions`): the way of a run is as if there were none.
"""

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Iterator

_PAUSE_SECONDS = 0.05
"""Between two attempts, in which those who waited get in."""


class CaptureGate:
    """Lets any number in, or one alone. `with gate:` is being inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if self._closed and not self._inside:
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self, attempts: int, seconds: float) -> Iterator[None]:
        """Is inside alone; who comes meanwhile waits.

        Args:
            attempts: How often it is tried.
            seconds: How long each attempt keeps others waiting.

        Raises:
            TimeoutError: There was always somebody inside.
        """
        for _ in range(attempts):
            if self._close(seconds):
                break
            time.sleep(min(seconds, _PAUSE_SECONDS))
        else:
            raise TimeoutError(f"there was no moment without a run on a GPU in {attempts} attempts")
        try:
            yield
        finally:
            self._open()

    def _close(self, seconds: float) -> bool:
        with self._changed:
            if self._closed:  # another is alone
                self._changed.wait_for(lambda: not self._closed, seconds)
                if self._closed:
                    return False
            self._closed = True
            if self._changed.wait_for(lambda: not self._inside, seconds):
                return True
            self._closed = False
            self._changed.notify_all()
            return False

    def _open(self) -> None:
        with self._changed:
            self._closed = False
            self._changed.notify_all()


class GatedSessions:
    """Which sessions have to pass the gates in this process: those that are made for a GPU once captures are expected.

    Sessions that were made before run past the gates, as if there were none. Nothing is captured while one of them is
    left.
    """

    def __init__(self) -> None:
        self._changed = threading.Lock()
        self._expected = False
        self._ungated: weakref.WeakSet[object] = weakref.WeakSet()

    def expect_captures(self) -> None:
        """Has each session that is made for a GPU from now on pass the gates."""
        with self._changed:
            self._expected = True

    def add(self, session: object) -> bool:
        """Tells whether a session that is about to be made for a GPU has to pass the gates."""
        with self._changed:
            if not self._expected:
                self._ungated.add(session)
            return self._expected

    def discard(self, session: object) -> None:
        """Notes that a session is closed."""
        with self._changed:
            self._ungated.discard(session)

    @property
    def complete(self) -> bool:
        """No session uses a GPU past the gates."""
        with self._changed:
            if not self._ungated:
                return True
        gc.collect()  # what is unloaded may still be part of a cycle
        with self._changed:
            return not self._ungated


RUNS = CaptureGate()
"""Runs on GPUs, and allocations of pinned memory: microseconds to seconds."""

LOADS = CaptureGate()
"""Sessions on GPUs that are made, or closed: up to minutes, and seldom."""

GATED = GatedSessions()


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """Is the only one that uses CUDA in this process.

    Raises:
        TimeoutError: There was no moment for that: none without a load within half a minute, or none without a run; or
            versions are in memory that do not pass the gates.
    """
    if not GATED.complete:
        raise TimeoutError(
            "versions were loaded on a GPU before CUDA graphs were asked for: load them again, or restart the server"
        )
    with LOADS.alone(attempts=3, seconds=10.0), RUNS.alone(attempts=20, seconds=0.05):
        yield
