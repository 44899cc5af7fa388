"""One gRPC call over ASGI: converts between messages and the server's events, and sends the status."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeAlias, TypeVar

from google.rpc.status_pb2 import Status

from turnout.admission.requests import ReceiveBudget
from turnout.admission.unread import LARGE_BYTES, CountedBytes, UnsentBudget, connection_of, counts_of
from turnout.chunks import Serialized
from turnout.errors import Exhausted
from turnout.rpc.errors import to_status
from turnout.rpc.transport.asgi.compression import (
    ENCODING_NAMES,
    ENCODINGS,
    IDENTITY,
    accepts_gzip,
    compress,
    decompress,
)
from turnout.rpc.transport.asgi.eager_tasks import started
from turnout.rpc.transport.asgi.framing import PREFIX, FrameSplitter, grouped
from turnout.rpc.transport.asgi.headers import parse_timeout
from turnout.rpc.transport.asgi.running_calls import RunningCall
from turnout.rpc.transport.asgi.statuses import (
    CONTENT_TYPE,
    DEADLINE_EXCEEDED,
    INTERNAL,
    UNIMPLEMENTED,
    Event,
    refusal,
    status_headers,
    trailers,
)
from turnout.rpc.transport.port import JOINED_BYTES, Parts, StatusError
from turnout.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

START: Event = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
_START_GZIP: Event = {**START, "headers": [CONTENT_TYPE, (b"grpc-encoding", b"gzip")]}
NO_BODY: Event = {"type": "http.response.body"}

_EARLY_SHARE = 0.05
_EARLY_SECONDS = 0.01
"""The deadline that a method sees is earlier than the client's by this share of the timeout, and by at most this many
seconds, so that the status arrives before the client gives up. A client that gives up resets its stream, and h2corn
closes a connection, with all its calls, after 200 resets in 10 s."""

_TIMEOUT_FACTOR = 1.1
"""Ratio of the timer for a pause within a message to the permitted pause. With the extra time, the timer has to be
rescheduled less often."""

_LEAST_GZIP_BYTES = 1024
"""Size in bytes below which a message is not compressed, since compression would not pay off."""

_COMPRESSED_IN_THREAD = 64 * 1024
"""Size in bytes from which a message is compressed in a thread: that takes a millisecond, which would delay other
calls."""

_DECOMPRESSED_IN_THREAD = 4 * 1024
"""Size in bytes from which a compressed message is decompressed in a thread: it may grow a thousandfold."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Limits of calls, and resources that all calls share.

    Attributes:
        max_message_bytes: Maximum size of a client's message in bytes, both compressed and decompressed.
        message_seconds: Maximum pause within a message in seconds; 0 for no limit.
        gzip: Whether to compress responses to clients that accept gzip.
        budget: Limit on the total size of incomplete messages of all calls.
        threads: Threads that compress and decompress large messages.
        unsent: Counts the large pieces of responses until h2corn has sent them.
    """

    max_message_bytes: int
    message_seconds: float
    gzip: bool
    budget: ReceiveBudget
    threads: Threads
    unsent: UnsentBudget

    async def convert(self, in_thread: bool, convert: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `convert`, in a thread if `in_thread` is true, and returns its result."""
        if in_thread:
            return await self.threads.run(convert, *args, **kwargs)
        return convert(*args, **kwargs)


class AsgiCall(RunningCall):
    """A call whose messages are carried in ASGI events. With `gzip`, its responses are compressed.

    `started` tells whether the response headers have been sent.
    """

    gzip = False
    started = False
    _encoding = IDENTITY
    _frames: FrameSplitter | None = None
    _half_closed = False
    _held = 0
    _waiting: Awaitable[Event] | None = None
    _fault: StatusError | None = None
    _waited = False
    _alone = False

    def __init__(
        self,
        limits: CallLimits,
        counted: bool,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
    ) -> None:
        """Initializes the call; `open` must be called next.

        `headers` has one value for each name in those of `scope`; `counted` is an attribute of `RunningCall`.
        """
        self.counted = counted
        self._headers = scope["headers"]
        self._names = headers
        self._scope = scope
        self._limits = limits
        self._receive = receive
        self._send = send

    def open(self) -> None:
        """Reads the timeout and the encodings from the headers. Raises StatusError if a header is invalid."""
        headers = self._names
        if (timeout := headers.get(b"grpc-timeout")) is not None:
            try:
                seconds = parse_timeout(timeout)
            except ValueError as error:
                raise refusal(INTERNAL, str(error)) from None
            self._expires = time.monotonic() + seconds
            self.deadline = self._expires - min(seconds * _EARLY_SHARE, _EARLY_SECONDS)
        if (encoding := headers.get(b"grpc-encoding")) is not None:
            if encoding not in ENCODINGS:
                named = encoding[:64].decode("latin-1")
                raise refusal(UNIMPLEMENTED, f"expected grpc-encoding {ENCODING_NAMES}, got {named!r}")
            self._encoding = encoding
        if self._limits.gzip:
            self.gzip = accepts_gzip(headers.get(b"grpc-accept-encoding", b""))

    @property
    def path(self) -> str:
        """Path of the called method."""
        return str(self._scope["path"])

    @property
    def connection(self) -> Hashable:
        """As `connection_of`."""
        return connection_of(self._scope)

    @property
    def host(self) -> str:
        """The caller's IP address; "" if it has none."""
        client = self._scope.get("client")
        return str(client[0]) if client else ""

    @property
    def certificate(self) -> str:
        """The client's leaf certificate in PEM; "" if it presented none."""
        chain = self._scope["extensions"].get("tls", {}).get("client_cert_chain", ())
        return str(chain[0]) if chain else ""

    async def only_message(self, event: Event) -> Serialized:
        """Returns the message of a unary call whose first event is `event`.

        Raises:
            StatusError: The client sent no message, an invalid message, or more than one message.
        """
        frames = self._frames = FrameSplitter(self._limits.max_message_bytes)
        self._feed(frames, event)
        message = await self._next()
        if message is None:
            raise refusal(INTERNAL, "expected one message, got none")
        if frames.partial:
            raise refusal(INTERNAL, "expected one message, got more")
        return message

    async def read(self) -> bytes | None:
        """Returns the client's next message; None after its last message."""
        message = await self._next()
        return None if message is None else bytes(message)

    async def _next(self) -> Serialized | None:
        """Returns the client's next message as `read` does, but leaves a large one in chunks."""
        if self._fault is not None:
            raise self._fault
        frames = self._frames
        if frames is None:
            frames = self._frames = FrameSplitter(self._limits.max_message_bytes)
        frame = frames.next()
        while frame is None:
            if self._half_closed:
                if frames.partial:
                    raise refusal(INTERNAL, "the request ended within a message")
                return None
            if frames.partial:
                frame = await self._rest(frames)
            else:
                event = self._waiting or started(self._receive())
                if not isinstance(event, tuple):
                    self._waiting, self._waited = None, True
                    event = (await event,)
                self._feed(frames, event[0])
                frame = frames.next()
        self.release()
        compressed, message = frame
        if not compressed:
            return message
        limit, in_thread = self._limits.max_message_bytes, len(message) >= _DECOMPRESSED_IN_THREAD
        return await self._limits.convert(in_thread, decompress, bytes(message), self._encoding, limit)

    async def read_some(self, most: int) -> Sequence[Serialized]:
        """Returns at most `most` messages that have arrived; an empty sequence after the client's last message."""
        self._waited = False
        message = await self._next()
        if message is None:
            return ()
        messages: list[Serialized] = [message]
        frames = self._frames
        assert frames is not None, "one was read"
        alone = self._alone and self._waited and not frames.buffered
        if most > 1 and self._encoding is IDENTITY and not alone:
            try:
                self._take_more(frames, messages, most)
            except StatusError as error:  # raised by the next `read`, so that the earlier messages are answered first
                self._fault = error.with_traceback(None)
            self._alone = self._waited and len(messages) == 1
        return messages

    def _take_more(self, frames: FrameSplitter, messages: list[Serialized], most: int) -> None:
        """Adds the other messages that have arrived, up to `most` messages and `JOINED_BYTES` bytes in total.

        All of them are taken before any is answered, because each event that is received wakes the server's thread, as
        does requesting an event that has not arrived, and the thread is asleep again before a message is answered. If
        messages arrive one at a time, `read_some` does not look for more before the message is answered, so that the
        next request for an event wakes the thread together with the response.
        """
        receive, size = self._receive, len(messages[0])
        while len(messages) < most and size < JOINED_BYTES:
            if (frame := frames.next()) is not None:
                compressed, message = frame
                if compressed:
                    raise refusal(INTERNAL, "expected no compressed message from a call without grpc-encoding")
                messages.append(message)
                size += len(message)
            elif frames.partial or self._half_closed:
                return
            else:
                event = started(receive())
                if not isinstance(event, tuple):
                    self._waiting = event
                    return
                self._feed(frames, event[0])

    async def write(self, message: bytes) -> None:
        """Sends a message. Returns when there is room for the next one."""
        try:
            await self.send_message(message, more=True)
        except OSError:  # the client has disconnected, and the server is about to cancel the call's task
            raise asyncio.CancelledError from None

    async def write_all(self, messages: Sequence[bytes]) -> None:
        """Sends messages, combining small ones in one event. Returns when there is room for more."""
        if self.gzip or not self.started or not messages:
            await super().write_all(messages)
            return
        pieces = [piece for message in messages for piece in (PREFIX.pack(0, len(message)), message)]
        try:
            await self._send_pieces(pieces, more=True)
        except OSError:  # as above
            raise asyncio.CancelledError from None

    async def send_message(self, message: bytes, *, more: bool) -> None:
        """Sends a message, preceded by the headers if it is the first. With `more`, another message may follow."""
        size = len(message)
        if not self.started:
            self.started = True
            await self._send(_START_GZIP if self.gzip else START)
        compressed = 0
        if self.gzip and size >= _LEAST_GZIP_BYTES:
            message = await self._limits.convert(size >= _COMPRESSED_IN_THREAD, compress, message)
            compressed, size = 1, len(message)
        await self._send_pieces((PREFIX.pack(compressed, size), message), more=more)

    async def send_parts(self, response: Parts) -> None:
        """Sends the only message of a call, combining its small parts in one event.

        h2corn frees what it is given in the order in which it sends it, so only the last event needs to be counted.
        """
        if self.gzip:
            await self.send_message(b"".join(response.parts), more=False)
            return
        self.started = True
        await self._send(START)
        prefix = PREFIX.pack(0, sum(map(len, response.parts)))
        *groups, last = grouped((prefix, *response.parts), JOINED_BYTES)
        for group in groups:
            await self._send({"type": "http.response.body", "body": b"".join(group), "more_body": True})
        await self._send({"type": "http.response.body", "body": CountedBytes.of(b"".join(last), response.unsent)})

    async def _send_pieces(self, pieces: Sequence[bytes], *, more: bool) -> None:
        """Sends the pieces of messages, combining small ones in one event. With `more`, other messages may follow."""
        *groups, last = grouped(pieces, JOINED_BYTES)
        for group in groups:
            await self._send({"type": "http.response.body", "body": self._joined(group), "more_body": True})
        await self._send({"type": "http.response.body", "body": self._joined(last), "more_body": more})

    def _joined(self, pieces: Sequence[bytes]) -> bytes:
        """Joins pieces to bytes that are counted while h2corn holds them, if they are large."""
        if len(pieces) == 1 and isinstance(pieces[0], CountedBytes):
            return pieces[0]
        body = b"".join(pieces)
        if len(body) <= LARGE_BYTES:
            return body
        counts = counts_of(pieces)  # at most one, since pieces of two would not be joined
        return CountedBytes.of(body, counts[0] if counts else self._limits.unsent.hold(self.connection, len(body)))

    async def send_status(self, status: Status) -> None:
        """Ends the call with a status other than OK."""
        try:
            if self.started:
                await self._send(NO_BODY)
                await self._send(trailers(status_headers(status)))
            else:
                await send_only_status(self._send, status)
        except OSError:
            pass  # the client has disconnected

    def release(self) -> None:
        """Returns the bytes reserved for an incomplete message to the budget."""
        if self._held:
            self._limits.budget.release(self._held)
            self._held = 0

    def _feed(self, frames: FrameSplitter, event: Event) -> None:
        """Adds the bytes of an event to the frame splitter."""
        if event["type"] == "http.disconnect":
            raise asyncio.CancelledError  # the server also cancels the call's task
        if not event.get("more_body"):
            self._half_closed = True
        if body := event.get("body"):
            frames.feed(body)

    async def _rest(self, frames: FrameSplitter) -> tuple[bool, Serialized] | None:
        """Returns the message that is partly received once it is complete; None if the request ends before that."""
        seconds = self._limits.message_seconds
        if self.task is None:
            await asyncio.sleep(0)  # makes the call continue in a task, which the timeout needs
        try:
            async with asyncio.timeout(seconds * _TIMEOUT_FACTOR or None) as timeout:
                while (frame := frames.next()) is None and not self._half_closed:
                    self._hold(frames.buffered)
                    self._feed(frames, await self._receive())
                    _renew(timeout, seconds)
        except TimeoutError:
            message = f"nothing came of the request's message for {seconds:g} s (limits.body_timeout_s)"
            raise refusal(DEADLINE_EXCEEDED, message) from None
        return frame

    def _hold(self, size: int) -> None:
        """Reserves `size` bytes in total for an incomplete message. Raises StatusError if the budget is exhausted."""
        growth = size - self._held
        if growth <= 0:
            return
        try:
            self._limits.budget.reserve(growth)
        except Exhausted as error:
            raise StatusError(to_status(error)) from None
        self._held += growth


def _renew(timeout: asyncio.Timeout, seconds: float) -> None:
    """Extends a timeout if less than `seconds` remain. A new timer for each event would add a third to its cost."""
    due = timeout.when()
    if due is not None and due - (now := asyncio.get_running_loop().time()) < seconds:
        timeout.reschedule(now + seconds * _TIMEOUT_FACTOR)


async def send_only_status(send: Send, status: Status, *more: tuple[bytes, bytes]) -> None:
    """Ends a call that has sent nothing with a status other than OK, in a response that consists of headers only."""
    headers = [CONTENT_TYPE, *status_headers(status), *more]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send(NO_BODY)


async def send_http(send: Send, code: int, sentence: str, *more: tuple[bytes, bytes]) -> None:
    """Answers a request that is not a gRPC call."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *more]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode() + b"\n"})
