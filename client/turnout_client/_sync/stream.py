"""Sends predictions over one PredictStream, for threads. The counterpart in `_async` is written by hand as well.

Tasks wait on futures and need no locks, since they share one event loop; threads wait on locks and must guard shared
state. The two implementations have too little in common to generate one from the other.
"""

import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import grpc

from turnout_client._sync.connection import Connection
from turnout_client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedCall,
    Internal,
    TurnoutClientError,
    error_of_break,
    error_of_status,
)
from turnout_client.stream_ids import StreamIds
from turnout_client.tracing import caller
from turnout_client.wire import PredictCall, stamp
from turnout_proto.v1.prediction_pb2 import PredictResponse, PredictStreamRequest


class StreamTransport:
    """Sends the predictions of all threads over one stream, which is opened on demand and replaced when it breaks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._stream: _Stream | None = None

    def predict(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        """Sends `call` and returns the response, which must arrive within `timeout` seconds; None for no limit.

        Raises:
            Unavailable: The stream broke before the response arrived.
            TurnoutClientError: The server answered this request with an error.
            RuntimeError: The stream belongs to a process that this one was forked from.
        """
        stream = self._stream
        if stream is not None and stream.process != os.getpid():  # its threads are those of the parent
            raise RuntimeError("the process was forked while this client had a stream; create a Client in each process")
        with self._lock:
            stream = self._stream
            if stream is None or stream.broken:
                stream = self._stream = _Stream(self._connection)
        return stream.predict(call, timeout)

    def close(self) -> None:
        """Fails the pending requests with Cancelled and ends the stream."""
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def __del__(self) -> None:
        if self._stream is not None:  # without it, the threads of a client that was not closed would run for ever
            self._stream.abandon()


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class _Item:
    """A request on the stream, and its response."""

    message: PredictStreamRequest | None  # None once it is sent, which frees its memory while the item waits
    request_id: str = ""
    deadline: float | None = None  # in `time.monotonic` seconds; None for none
    sent: bool = False
    answer: PredictResponse | TurnoutClientError | None = None
    done: threading.Lock = field(default_factory=_held_lock)  # released by finish(); half the cost of an Event

    def finish(self, answer: PredictResponse | TurnoutClientError) -> None:
        self.answer = answer
        self.done.release()


class _Stream:
    """One PredictStream and its two threads: gRPC's writes the outbox's entries, ours delivers the responses.

    The thread that removes an item from `_pending` is the one that finishes it.

    Attributes:
        process: Id of the process that opened the stream.
    """

    def __init__(self, connection: Connection) -> None:
        self.process = os.getpid()
        self._ending: TurnoutClientError | None = None
        self._closing = False
        self._lock = threading.Lock()
        self._ids = StreamIds()
        self._pending: dict[str, _Item] = {}
        self._outbox: queue.SimpleQueue[_Item | str | None] = queue.SimpleQueue()  # a string: id of a request to cancel
        self._call = connection.stubs.prediction.PredictStream(self._messages(), metadata=connection.metadata)
        self._reader = threading.Thread(target=self._read, name="turnout-client stream reader", daemon=True)
        self._reader.start()

    @property
    def broken(self) -> bool:
        """Whether the stream accepts no more requests."""
        return self._ending is not None

    def predict(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        message = PredictStreamRequest()
        call.write(message.request)
        message.traceparent, message.tracestate = caller()
        item = _Item(message, deadline=None if timeout is None else time.monotonic() + timeout)
        with self._lock:
            if self._ending is not None:
                raise self._ending.of_request(call.request_id)
            item.request_id = message.request.request_id = self._ids.claim(call.request_id, self._pending)
            self._pending[item.request_id] = item
        self._outbox.put(item)
        try:
            if not item.done.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
                # No cancellation is sent: the server knows timeout_ms and ends the request by its own clock.
                if self._drop(item):
                    raise DeadlineExceeded("no answer came within the time allowed", request_id=item.request_id)
                item.done.acquire()
        except BaseException:  # raised by a signal handler in the main thread
            if self._drop(item) and item.sent:
                self._outbox.put(item.request_id)
            raise
        if isinstance(item.answer, PredictResponse):
            return item.answer
        raise cast(TurnoutClientError, item.answer)

    def close(self) -> None:
        self.abandon()
        self._reader.join()

    def abandon(self) -> None:
        """Ends the stream like `close`, but does not wait for its threads."""
        self._closing = True
        if self.process == os.getpid():
            self._call.cancel()

    def _drop(self, item: _Item) -> bool:
        """Stops waiting for the item; returns whether it was pending."""
        with self._lock:
            if self._pending.pop(item.request_id, None) is None:
                return False
            item.message = None
            self._ids.abandon(item.request_id)
            return True

    def _messages(self) -> Iterator[PredictStreamRequest]:
        while (entry := self._outbox.get()) is not None:
            if isinstance(entry, str):
                yield PredictStreamRequest(cancel=entry)
                continue
            with self._lock:
                message, entry.message = entry.message, None
                entry.sent = message is not None
                if message is None:
                    self._ids.free(entry.request_id)
            if message is not None:
                stamp(message, entry.deadline)
                yield message

    def _read(self) -> None:
        error: TurnoutClientError = Internal("the stream cannot be used")
        try:
            for reply in self._call:
                item = self._pending.pop(reply.request_id, None)
                if item is None:
                    with self._lock:
                        self._ids.free(reply.request_id)
                elif reply.HasField("response"):
                    item.finish(reply.response)
                else:
                    item.finish(error_of_status(reply.error, reply.request_id))
            error = error_of_break(None)
        except grpc.RpcError as failure:
            error = error_of_break(cast(FailedCall, failure))
        finally:
            self._break(Cancelled("the client was closed") if self._closing else error)

    def _break(self, error: TurnoutClientError) -> None:
        """Fails all pending requests with a copy of `error` and ends the stream."""
        with self._lock:
            self._ending = error
            items = list(self._pending.values())
            self._pending.clear()
        for item in items:
            item.finish(error.of_request(item.request_id))
        self._outbox.put(None)
        self._call.cancel()
