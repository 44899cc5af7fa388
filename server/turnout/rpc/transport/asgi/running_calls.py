"""The calls of an application in flight, and the timer that ends those past their deadline."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any

from google.rpc.status_pb2 import Status

from turnout.errors import InvalidRequest
from turnout.rpc.transport.asgi.headers import Headers, read_metadata
from turnout.rpc.transport.asgi.statuses import DEADLINE_EXCEEDED
from turnout.rpc.transport.port import Metadata, Stream

_LEAST_SECONDS = 0.001
"""Between two looks at all calls."""

_LATE = Status(code=DEADLINE_EXCEEDED, message="the deadline passed before the call ended")


class RunningCall(Stream):
    """One call, whatever carries its messages.

    What few calls ever change is the class's own: most end as soon as they are begun.

    Attributes:
        ending: The status by which this server ends it early; None while it does not.
        counted: Whether it is one of those that may be under way, and whose end a server that stops waits for.
        answered: Whether its method has returned, and only the end of the answer is still to be sent.
        task: That it runs in; None as long as it needed none.
    """

    trailing: Metadata = ()
    ending: Status | None = None
    answered = False
    task: "asyncio.Task[Any] | None" = None
    counted: bool
    _headers: Headers
    _names: Mapping[bytes, bytes]
    _metadata: Metadata | None = None
    _expires: float | None = None
    _deadline: float | None = None

    def expire(self, deadline: float, early: float) -> None:
        """Sets when it is to end.

        Args:
            deadline: By `time.monotonic`.
            early: Seconds before that by which its method is to have ended.
        """
        self._expires = deadline
        self._deadline = deadline - early

    @property
    def metadata(self) -> Metadata:
        """The metadata that the client sent. Raises InvalidRequest if a value that should be base64 is none."""
        known = self._metadata
        if known is None:
            try:
                known = self._metadata = read_metadata(self._headers)
            except ValueError as error:
                raise InvalidRequest.at("metadata", str(error)) from None
        return known

    def mentions(self, keys: frozenset[bytes]) -> bool:
        """Tells whether `metadata` has one of the keys."""
        return not keys.isdisjoint(self._names)

    @property
    def deadline(self) -> float | None:
        """`time.monotonic()` by which a method is to have ended; None if the client named no deadline."""
        return self._deadline

    @property
    def authorization(self) -> str:
        """The `authorization` header; "" if there is none."""
        return self._names.get(b"authorization", b"").decode("latin-1")

    @property
    def cancelled(self) -> bool:
        """Whether the client cancelled it."""
        return self.task is not None and self.task.cancelling() > 0

    def end(self, status: Status) -> None:
        """Cancels it, and has it end with `status`."""
        if self.ending is None and not self.answered and self.task is not None:
            self.ending = status
            self.task.cancel()

    def resume(self) -> None:
        """Undoes the cancellation of `end`, for the status to be sent."""
        if self.task is not None:
            self.task.uncancel()


class RunningCalls:
    """All calls under way.

    One timer serves all deadlines, set for the earliest of them: a timer for each call costs a microsecond of its time.
    """

    def __init__(self) -> None:
        self._calls: set[RunningCall] = set()
        self._requests: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed = inf

    def add(self, call: RunningCall) -> None:
        """Starts to watch a call that continues in the current task."""
        call.task = asyncio.current_task()
        self._calls.add(call)
        deadline = call._expires
        if deadline is not None and deadline < self._armed:
            self._arm(deadline)

    def remove(self, call: RunningCall) -> None:
        """Forgets a call, which has ended; most were never watched."""
        self._calls.discard(call)

    def end_uncounted(self, status: Status) -> None:
        """Ends the calls with `status` that nobody waits for: health is watched until the watcher leaves."""
        for call in self._calls:
            if not call.counted:
                call.end(status)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts the task that runs in it as an HTTP request, which is not a call and is ended with the calls."""
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            yield
        finally:
            self._requests.discard(task)

    def end_all(self, status: Status) -> None:
        """Ends all calls with `status`, and HTTP requests without an answer."""
        for call in self._calls:
            call.end(status)
        for task in self._requests:
            task.cancel()

    def close(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = deadline
        delay = max(deadline - time.monotonic(), _LEAST_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer, self._armed = None, inf
        now, earliest = time.monotonic(), inf
        for call in self._calls:
            deadline = call._expires
            if deadline is None or call.ending is not None:
                continue
            if deadline <= now:
                call.end(_LATE)
            elif deadline < earliest:
                earliest = deadline
        if earliest < inf:
            self._arm(earliest)
