"""The calls in flight of an application, and the timers that end them at their deadlines."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from google.rpc.status_pb2 import Status

from turnout.errors import InvalidRequest
from turnout.rpc.transport.asgi.headers import read_metadata
from turnout.rpc.transport.asgi.statuses import DEADLINE_EXCEEDED, UNAVAILABLE
from turnout.rpc.transport.in_flight import in_flight
from turnout.rpc.transport.port import Metadata, Stream

_STOPPED = Status(code=UNAVAILABLE, message="the server stopped before the call ended")
_LATE = Status(code=DEADLINE_EXCEEDED, message="the deadline passed before the call ended")


class RunningCall(Stream):
    """The part of a call that does not depend on how its messages are carried.

    Most calls finish immediately, so attributes that few calls change have their defaults on the class.

    Attributes:
        ending: Status with which the server ends the call early; None if it does not.
        counted: Whether the call counts against the limit on concurrent requests. A stopping server waits only for
            calls that count.
        deadline: The method's deadline, which is a little earlier than the client's.
        answered: Whether the method has returned, so that only the end of the response remains to be sent.
        task: Task that runs the call; None while the call needs none.
    """

    trailing: Metadata = ()
    deadline: float | None = None
    ending: Status | None = None
    answered = False
    task: "asyncio.Task[Any] | None" = None
    counted: bool
    _headers: Sequence[tuple[bytes, bytes]]
    _names: Mapping[bytes, bytes]
    _metadata: Metadata | None = None
    _expires: float | None = None  # the client's deadline
    _timer: asyncio.TimerHandle | None = None

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
        """Returns whether `metadata` contains one of the keys."""
        return not keys.isdisjoint(self._names)

    @property
    def authorization(self) -> str:
        """The `authorization` header; "" if it is absent. Repeated headers are joined by commas."""
        found = self._names.get(b"authorization", b"")
        if len(self._headers) > len(self._names):  # some name is there twice
            found = b", ".join(value for name, value in self._headers if name == b"authorization")
        return found.decode("latin-1")

    @property
    def cancelled(self) -> bool:
        """Whether the call's task has been cancelled."""
        return self.task is not None and self.task.cancelling() > 0

    def end(self, status: Status) -> None:
        """Cancels the call so that it ends with `status`."""
        if self.ending is None and not self.answered and self.task is not None:
            self.ending = status
            self.task.cancel()


class RunningCalls:
    """The calls in flight of an application, which end at their deadlines."""

    def __init__(self) -> None:
        self._calls: set[RunningCall] = set()
        self._requests: set[asyncio.Task[Any]] = set()
        self.ended = False

    def add(self, call: RunningCall) -> None:
        """Registers a call that continues in the current task, and starts watching its deadline."""
        call.task = asyncio.current_task()
        self._calls.add(call)
        if call._expires is not None:
            delay = call._expires - time.monotonic()
            call._timer = asyncio.get_running_loop().call_later(delay, call.end, _LATE)

    def remove(self, call: RunningCall) -> None:
        """Removes a call that has ended. Does nothing for a call that was not added, as most are not."""
        self._calls.discard(call)
        call.task = None  # its error refers to the call, which would stay until garbage is collected
        if call._timer is not None:
            call._timer.cancel()

    def end_uncounted(self) -> None:
        """Ends the uncounted calls of a server that stops: a health watch would last until its client disconnects."""
        for call in self._calls:
            if not call.counted:
                call.end(_STOPPED)

    def request(self) -> AbstractContextManager[None]:
        """Registers the current task as an HTTP request, so that `end_all` ends it together with the calls."""
        return in_flight(self._requests)

    def end_all(self) -> None:
        """Ends all calls of a server that stops, and all HTTP requests without a response."""
        self.ended = True
        for call in self._calls:
            call.end(_STOPPED)
        for task in self._requests:
            task.cancel()
