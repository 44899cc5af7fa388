"""Keeps all other uses of CUDA in this process away while a CUDA graph is captured.

ONNX Runtime captures in CUDA's global mode (`cudaStreamCaptureModeGlobal` in its cuda_graph.cc): until the capture
ends, calls such as `cudaMalloc` fail in every thread of the process. Runs, loads and allocations on a GPU therefore
pass a gate, and a capture waits until nobody is inside. It never waits for long, since everything that arrives in the
meantime waits for it. A run that hangs may thus cost a version its graphs, but not other versions their service.

If no version is to be captured, sessions bypass the gates (`GatedSessions`), at no cost to runs.
"""

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Iterator

_PAUSE_SECONDS = 0.05
"""Pause in seconds between two attempts, during which waiting threads can enter."""


class CaptureGate:
    """Admits any number of threads, or one alone. Threads enter with `with gate:`."""

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
        """Holds the gate exclusively, after up to `attempts` attempts that each block other threads for `seconds`.

        Raises:
            TimeoutError: The gate was never empty.
        """
        for _ in range(attempts):
            if self._close(seconds):
                break
            time.sleep(min(seconds, _PAUSE_SECONDS))
        else:
            raise TimeoutError(f"a run on a GPU was in progress at each of {attempts} attempts")
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()

    def _close(self, seconds: float) -> bool:
        with self._changed:
            if self._closed:  # another thread holds it exclusively
                self._changed.wait_for(lambda: not self._closed, seconds)
                if self._closed:
                    return False
            self._closed = True
            if self._changed.wait_for(lambda: not self._inside, seconds):
                return True
            self._closed = False
            self._changed.notify_all()
            return False


class GatedSessions:
    """Tracks which sessions of this process pass the gates: those created for a GPU once captures are expected.

    Sessions created earlier bypass the gates. Nothing is captured while one of them exists.
    """

    def __init__(self) -> None:
        self._changed = threading.Lock()
        self._expected = False
        self._ungated: weakref.WeakSet[object] = weakref.WeakSet()

    def expect_captures(self) -> None:
        """Makes each session that is created for a GPU from now on pass the gates."""
        with self._changed:
            self._expected = True

    def add(self, session: object) -> bool:
        """Registers a session about to be created for a GPU and returns whether it must pass the gates."""
        with self._changed:
            if not self._expected:
                self._ungated.add(session)
            return self._expected

    def discard(self, session: object) -> None:
        """Records that a session is closed."""
        with self._changed:
            self._ungated.discard(session)

    @property
    def complete(self) -> bool:
        """Whether no session on a GPU bypasses the gates."""
        with self._changed:
            if not self._ungated:
                return True
        gc.collect()  # unloaded sessions may still be part of a reference cycle
        with self._changed:
            return not self._ungated


RUNS = CaptureGate()
"""Gate for runs on GPUs and allocations of pinned memory, which take microseconds to seconds."""

LOADS = CaptureGate()
"""Gate for creating and closing sessions on GPUs, which is rare and takes up to minutes."""

GATED = GatedSessions()


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """Gives the caller exclusive use of CUDA in this process.

    Raises:
        TimeoutError: There was always a load within half a minute, or always a run; or sessions exist that bypass the
            gates.
    """
    if not GATED.complete:
        raise TimeoutError(
            "versions were loaded on a GPU before CUDA graphs were enabled: load them again, or restart the server"
        )
    with LOADS.alone(attempts=3, seconds=10.0), RUNS.alone(attempts=20, seconds=0.05):
        yield
