"""Predictions over one PredictStream, for threads. Written by hand, as its counterpart in `_async` is.

A task that waits is a future of its event loop, a thread that waits is a lock; what takes turns on a loop needs no
guard, what runs in threads does. Too little is left in common to generate the one from the other.
"""

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
    """Sends the predictions of all threads over one stream, which is opened when there is none that works."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._stream: _Stream | None = None

    def predict(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        """Returns the answer to `call`, which may take `timeout` seconds.

        Raises:
            Unavailable: The stream broke before the answer came.
            TurnoutClientError: As the item's status says.
        """
        with self._lock:
            stream = self._stream
            if stream is None or stream.broken:
                stream = self._stream = _Stream(self._connection)
        return stream.predict(call, timeout)

    def close(self) -> None:
        """Fails what waits for an answer with Cancelled and ends the stream."""
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class _Item:
    """One request from its `predict` to its answer."""

    message: PredictStreamRequest | None  # let go of once it is sent, since the item waits on
    request_id: str = ""
    deadline: float | None = None  # of `time.monotonic`
    sent: bool = False
    answer: PredictResponse | TurnoutClientError | None = None
    done: threading.Lock = field(default_factory=_held_lock)  # released by who answers; half the cost of an Event

    def finish(self, answer: PredictResponse | TurnoutClientError) -> None:
        self.answer = answer
        self.done.release()


class _Stream:
    """One PredictStream with its two threads: gRPC's takes what waits in the outbox, ours hands out what is answered.

    Who takes an item out of `_pending` is the one who finishes it.
    """

    def __init__(self, connection: Connection) -> None:
        self._ending: TurnoutClientError | None = None
        self._closing = False
        self._lock = threading.Lock()
        self._ids = StreamIds()
        self._pending: dict[str, _Item] = {}
        self._outbox: queue.SimpleQueue[_Item | str | None] = queue.SimpleQueue()  # a string: a request to cancel
        self._call = connection.stubs.prediction.PredictStream(self._messages(), metadata=connection.metadata)
        self._reader = threading.Thread(target=self._read, name="turnout-client stream reader", daemon=True)
        self._reader.start()

    @property
    def broken(self) -> bool:
        """Whether it takes no more requests."""
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
                # The server is not told: it got timeout_ms, and its own clock ends the request there.
                if self._drop(item):
                    raise DeadlineExceeded("no answer came within the time allowed", request_id=item.request_id)
                item.done.acquire()
        except BaseException:  # what a signal's handler raises in the main thread
            if self._drop(item) and item.sent:
                self._outbox.put(item.request_id)
            raise
        if isinstance(item.answer, PredictResponse):
            return item.answer
        raise cast(TurnoutClientError, item.answer)

    def close(self) -> None:
        self._closing = True
        self._call.cancel()
        self._reader.join()

    def _drop(self, item: _Item) -> bool:
        """Gives up waiting for the item; returns whether it was being waited for."""
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
        """Fails all that waits with an error like `error` and ends the stream."""
        with self._lock:
            self._ending = error
            items = list(self._pending.values())
            self._pending.clear()
        for item in items:
            item.finish(error.of_request(item.request_id))
        self._outbox.put(None)
        self._call.cancel()
