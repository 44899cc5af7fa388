"""Sends predictions over one PredictStream, on asyncio. The counterpart in `_sync` is written by hand as well."""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc

from turnout_client._async.connection import AsyncConnection
from turnout_client.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    TurnoutClientError,
    error_of_break,
    error_of_status,
)
from turnout_client.stream_ids import StreamIds
from turnout_client.tracing import caller
from turnout_client.wire import PredictCall, stamp
from turnout_proto.v1.prediction_pb2 import PredictResponse, PredictStreamRequest, PredictStreamResponse

T = TypeVar("T")

STATUS_GRACE = 1.0
"""Seconds to wait for a call's status after its last answer. It normally comes within two iterations of the loop."""

WRITE_FAILED = "Internal error from Core"
"""grpc.aio's message, instead of the server's status, if a write failed (`_AioCall.set_internal_error`)."""


class AsyncStreamTransport:
    """Sends concurrent predictions over one stream, which is opened on demand and replaced when it breaks."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._stream: _AsyncStream | None = None

    async def predict(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        """Sends `call` and returns the response, which must arrive within `timeout` seconds; None for no limit.

        Raises:
            Unavailable: The stream broke before the response arrived.
            TurnoutClientError: The server answered this request with an error.
        """
        self._connection.check_loop()
        stream = self._stream
        if stream is None or stream.broken:
            stream = self._stream = _AsyncStream(self._connection)
        return await stream.predict(call, timeout)

    async def aclose(self) -> None:
        """Fails the pending requests with Cancelled and ends the stream."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    def __del__(self) -> None:
        if self._stream is not None:  # without it, the tasks of a client that was not closed would run for ever
            self._stream.abandon()


@dataclass(slots=True, eq=False)
class _AsyncItem:
    """A request on the stream, and the future of its response."""

    request_id: str
    message: PredictStreamRequest | None  # None once it is sent, which frees its memory while the item waits
    answer: asyncio.Future[PredictResponse]
    deadline: float | None  # in `time.monotonic` seconds; None for none
    sent: bool = False


@dataclass(frozen=True, slots=True)
class _Status:
    """How a call ended, in the form that `error_of_break` reads."""

    number: grpc.StatusCode
    message: str
    metadata: Iterable[tuple[str, str | bytes]]

    def code(self) -> grpc.StatusCode:
        return self.number

    def details(self) -> str:
        return self.message

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        return self.metadata


class _AsyncStream:
    """One PredictStream and its two tasks: one writes the outbox's entries, the other delivers the responses."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.broken = False  # whether it accepts no more requests
        self._loop = asyncio.get_running_loop()
        self._call = connection.stubs.prediction.PredictStream(metadata=connection.metadata)
        self._ids = StreamIds()
        self._pending: dict[str, _AsyncItem] = {}
        self._outbox: deque[_AsyncItem | str] = deque()  # a string is the id of a request to cancel
        self._filled = asyncio.Event()
        self._reader = self._loop.create_task(self._read(), name="turnout-client stream reader")
        self._writer = self._loop.create_task(self._write(), name="turnout-client stream writer")
        self._ending: TurnoutClientError | None = None
        self._call.add_done_callback(self._on_status)
        self._reader.add_done_callback(self._on_end)
        self._writer.add_done_callback(self._on_end)

    async def predict(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        message = PredictStreamRequest()
        call.write(message.request)
        message.traceparent, message.tracestate = caller()
        request_id = message.request.request_id = self._ids.claim(call.request_id, self._pending)
        answer: asyncio.Future[PredictResponse] = self._loop.create_future()
        item = _AsyncItem(request_id, message, answer, None if timeout is None else time.monotonic() + timeout)
        timer = None
        if timeout is not None:
            timer = self._loop.call_later(timeout, self._expire, item)
        self._pending[request_id] = item
        self._put(item)
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.cancelled():
                answer.exception()  # retrieves an exception set meanwhile, which asyncio would log otherwise
            if self._drop(item) and item.sent:
                self._put(request_id)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def aclose(self) -> None:
        self.abandon()
        if self._loop is asyncio.get_running_loop():
            await asyncio.gather(self._reader, self._writer, return_exceptions=True)

    def abandon(self) -> None:
        """Ends the stream like `aclose`, but does not wait for its tasks; may be called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._break, Cancelled("the client was closed"))

    def _put(self, entry: _AsyncItem | str) -> None:
        self._outbox.append(entry)
        self._filled.set()

    def _expire(self, item: _AsyncItem) -> None:
        # No cancellation is sent: the server knows timeout_ms and ends the request by its own clock.
        if self._drop(item) and not item.answer.done():
            item.answer.set_exception(
                DeadlineExceeded("no answer came within the time allowed", request_id=item.request_id)
            )

    def _drop(self, item: _AsyncItem) -> bool:
        """Stops waiting for the item; returns whether it was pending."""
        if self._pending.pop(item.request_id, None) is None:
            return False
        item.message = None
        self._ids.abandon(item.request_id)
        return True

    async def _write(self) -> None:
        while True:
            while self._outbox:
                entry = self._outbox.popleft()
                if isinstance(entry, str):
                    message = PredictStreamRequest(cancel=entry)
                elif entry.message is None:
                    self._ids.free(entry.request_id)
                    continue
                else:
                    message, entry.message, entry.sent = entry.message, None, True
                    stamp(message, entry.deadline)
                await self._call.write(message)
            self._filled.clear()
            await self._filled.wait()

    async def _read(self) -> None:
        pending = self._pending
        while True:
            reply = await self._call.read()
            if not isinstance(reply, PredictStreamResponse):  # grpc.aio.EOF
                return
            item = pending.pop(reply.request_id, None)
            if item is None:
                self._ids.free(reply.request_id)
            elif item.answer.done():
                continue  # its task was cancelled a moment ago
            elif reply.HasField("response"):
                item.answer.set_result(reply.response)
            else:
                item.answer.set_exception(error_of_status(reply.error, reply.request_id))

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._break(Cancelled("the client was closed"))
            return
        error = task.exception()
        if not isinstance(error, grpc.aio.AioRpcError | asyncio.InvalidStateError | None):
            self._break(Internal(f"the stream cannot be used: {error}"))
        elif task is self._reader:  # whatever ends the writer also ends the reader, after the last answer
            self.broken = True
            if self._ending is not None:
                self._break(self._ending)
            else:
                self._loop.call_later(STATUS_GRACE, self._break, error_of_break(None))

    def _on_status(self, call: object) -> None:
        """Records how the call ended.

        If a write fails, grpc.aio reports a status of its own, INTERNAL, in addition to the server's status, in either
        order. This callback runs for each status and ignores grpc.aio's own.
        """
        status = _Status(
            _at_once(self._call.code()), _at_once(self._call.details()), _at_once(self._call.trailing_metadata())
        )
        if status.message == WRITE_FAILED:
            return
        self._ending = error_of_break(None if status.number is grpc.StatusCode.OK else status)
        if self._reader.done():
            self._break(self._ending)

    def _break(self, error: TurnoutClientError) -> None:
        """Fails all pending requests with a copy of `error` and ends the stream. Calling it again does nothing."""
        self.broken = True
        for item in self._pending.values():
            if not item.answer.done():
                item.answer.set_exception(error.of_request(item.request_id))
        self._pending.clear()
        self._outbox.clear()
        self._call.cancel()
        self._reader.cancel()
        self._writer.cancel()


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that never suspends, such as the accessors of a finished call."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    coroutine.close()
    raise RuntimeError("a call that is done does not know its status")
