"""Runs copies of requests where they cannot harm live requests.

In the server's process, copies run on a thread of the lowest priority, which only executes the model. The Python part
of a copy runs on the event loop, since a low-priority thread that holds the interpreter lock while it is preempted
would block all other threads. In a child process (`turnout.serving.isolation`), even a native crash ends only the
child.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from turnout.errors import DigestMismatch, ModelCrashed, ModelTimedOut, TurnoutError
from turnout.host.cpu import lower_priority
from turnout.serving.isolation.session import IsolatedSession
from turnout.serving.sessions.session import Session, Stop
from turnout.serving.sessions.tensor import Array
from turnout.threads import Threads

_GRACE_SECONDS = 2.0
"""Seconds that a stopped run may take to reach its next node. After that, it counts as hanging in a node."""

_MAX_CRASHES = 5
"""Number of consecutive crashes after which a child is not restarted, since each start costs a load."""

_CLOSED = "its process was ended"


class ThreadRunner:
    """Runs copies in this process, on a session that is its own or shared with the version's own requests.

    Attributes:
        broken: Why it can run no more copies; "" while it can.
    """

    def __init__(self, name: str, session: Session, threads: int, timeout: float) -> None:
        self.broken = ""
        self._session = session
        self._timeout = timeout
        self._threads = Threads(f"shadow-{name}", threads, lower_priority)
        self._stops: set[Stop] = set()

    async def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the shadow once, and stops the run if it exceeds the time limit.

        Raises:
            ModelFailure, ModelTimedOut, ModelCrashed, MemoryBudgetExceeded: The run failed.
        """
        stop = Stop()
        session = self._session
        self._stops.add(stop)
        running = asyncio.ensure_future(self._threads.run(session.run, inputs, outputs, stop))
        try:
            done, _ = await asyncio.wait([running], timeout=self._timeout)
            if not done:
                stop()
                done, _ = await asyncio.wait([running], timeout=_GRACE_SECONDS)
            if not done:
                self.broken = f"a run hangs: it was stopped after {self._timeout:g} s, but has not ended"
                running.add_done_callback(_forget)
                raise ModelTimedOut(self.broken)
        finally:
            stop()  # if the lane was cancelled, the run's result is no longer needed
            self._stops.discard(stop)
        return running.result()

    def close(self) -> None:
        """Stops running copies, without waiting for them."""
        for stop in self._stops:
            stop()
        self._threads.shutdown(cancel_futures=False)


class ProcessRunner:
    """Runs copies in a child process, which is started for the first copy and again after each crash.

    Attributes:
        broken: As in `ThreadRunner`.
    """

    def __init__(self, name: str, start: Callable[[], IsolatedSession], timeout: float) -> None:
        self.broken = ""
        self._start = start
        self._timeout = timeout
        # Of ordinary priority, since this thread only copies tensors. The child lowers its own priority.
        self._threads = Threads(f"shadow-{name}")
        self._child: IsolatedSession | None = None
        self._closed = False
        self._changing = threading.Lock()
        self._crashes = 0

    async def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the shadow once. Raises as `ThreadRunner.run`."""
        if self._closed:
            raise ModelCrashed(_CLOSED)
        return await self._threads.run(self._run, inputs, outputs)

    def close(self) -> None:
        """Ends the child. A child that is being started ends once it is up."""
        self._threads.shutdown(cancel_futures=False)
        with self._changing:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            # In a thread, since closing waits for the child, which would block the event loop.
            threading.Thread(target=child.close, name="shadow child ends", daemon=True).start()

    def _run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        try:
            child = self._running_child()
            deadline = time.monotonic() + self._timeout
            values = child.run(inputs, outputs, lambda: self._closed or time.monotonic() > deadline)
        except (ModelCrashed, ModelTimedOut) as error:
            self._crashes += 1
            if self._crashes >= _MAX_CRASHES:
                self.broken = f"its process ended {self._crashes} times in a row; the last error: {error.message}"
            raise
        except DigestMismatch as error:  # a restart would not restore the published files
            self.broken = error.message
            raise
        except TurnoutError:
            self._crashes = 0
            raise
        self._crashes = 0
        return values

    def _running_child(self) -> IsolatedSession:
        if self._closed:
            raise ModelCrashed(_CLOSED)
        if (child := self._child) is not None:
            if not child.alive:
                child.start()
            return child
        child = self._start()
        with self._changing:
            if not self._closed:
                self._child = child
                return child
        child.close()
        raise ModelCrashed(_CLOSED)


CopyRunner = ThreadRunner | ProcessRunner


def _forget(running: "asyncio.Future[list[Array]]") -> None:
    if not running.cancelled():
        running.exception()  # retrieved so that asyncio does not log the failure of a run that was given up
