"""Runs copies of requests where they can harm nobody.

In the server's process a run has a thread of the lowest priority, which does nothing but run: what is Python about a
copy is done on the event loop, since a thread of low priority that is kept from its core while it holds the interpreter
lock keeps everyone from it. In a child process (`turnout.serving.isolation`) even a native crash ends only the child.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from turnout.errors import DigestMismatch, ModelCrashed, ModelTimedOut, TurnoutError
from turnout.host.cpu import lower_priority
from turnout.serving.isolation.session import IsolatedSession
from turnout.serving.sessions.session import Session, Stop
from turnout.serving.sessions.tensor import Array
from turnout.threads import Threads

_GRACE_SECONDS = 2.0
"""What a run that was told to stop may take until its next node; past that it hangs in one."""

_MAX_CRASHES = 5
"""Crashes in a row after which a child is not started again: each start costs a load."""

_CLOSED = "its process was ended"


class CopyRunner(Protocol):
    """Runs copies.

    Attributes:
        broken: Why it can run no more; "" while it can.
    """

    broken: str

    async def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the shadow once.

        Raises:
            ModelFailure, ModelTimedOut, ModelCrashed, MemoryBudgetExceeded: It failed, and how.
        """
        ...

    def close(self) -> None:
        """Ends what runs, without waiting for it."""
        ...


class ThreadRunner:
    """Runs copies in this process, on a session that is shared with the version's own requests or is its own."""

    def __init__(self, name: str, session: Session, threads: int, timeout: float) -> None:
        self.broken = ""
        self._session = session
        self._timeout = timeout
        self._threads = Threads(f"shadow-{name}", threads, lower_priority)
        self._stops: set[Stop] = set()

    async def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the shadow once; ends the run if it takes longer than it may."""
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
                self.broken = f"a run hangs: it was told to end after {self._timeout:g} s and did not"
                running.add_done_callback(_forget)
                raise ModelTimedOut(self.broken)
        finally:
            stop()  # if the lane was cancelled meanwhile, nobody waits for the run
            self._stops.discard(stop)
        return running.result()

    def close(self) -> None:
        """Tells what runs to stop."""
        for stop in self._stops:
            stop()
        self._threads.shutdown(cancel_futures=False)


class ProcessRunner:
    """Runs copies in a child process, which is started at the first copy and again after each crash."""

    def __init__(self, name: str, start: Callable[[], IsolatedSession], timeout: float) -> None:
        self.broken = ""
        self._start = start
        self._timeout = timeout
        # Of ordinary priority: all that this thread does is to copy tensors; the child lowers its own.
        self._threads = Threads(f"shadow-{name}")
        self._child: IsolatedSession | None = None
        self._closed = False
        self._changing = threading.Lock()
        self._crashes = 0

    async def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the shadow once."""
        if self._closed:
            raise ModelCrashed(_CLOSED)
        return await self._threads.run(self._run, inputs, outputs)

    def close(self) -> None:
        """Ends the child; one that is being started ends as soon as it is up."""
        self._threads.shutdown(cancel_futures=False)
        with self._changing:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            # It waits for the child a little, and the loop has better to do.
            threading.Thread(target=child.close, name="shadow child ends", daemon=True).start()

    def _run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        try:
            child = self._running_child()
            deadline = time.monotonic() + self._timeout
            values = child.run(inputs, outputs, lambda: self._closed or time.monotonic() > deadline)
        except (ModelCrashed, ModelTimedOut) as error:
            self._crashes += 1
            if self._crashes >= _MAX_CRASHES:
                self.broken = f"its process ended {self._crashes} times in a row, the last time so: {error.message}"
            raise
        except DigestMismatch as error:  # no start makes it what was published
            self.broken = error.message
            raise
        except TurnoutError:
            self._crashes = 0
            raise
        self._crashes = 0
        return values

    def _running_child(self) -> IsolatedSession:
        """Returns the child, started if it is not there or has died."""
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


def _forget(running: "asyncio.Future[list[Array]]") -> None:
    if not running.cancelled():
        running.exception()  # a run that hung and failed at last has nobody to tell
