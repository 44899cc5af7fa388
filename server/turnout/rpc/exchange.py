"""Inference requests over gRPC, whatever their protocol: parsing, and errors.

A unary call is one request: its status is the error. On a stream, each item is a request, and an item carries the
error; its parent span is the one that the item names, or else that of the stream's metadata.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self

from turnout.auth.caller import Caller
from turnout.errors import InvalidRequest, TurnoutError
from turnout.routing.request_metadata import NO_PREFERENCES, PreferenceReader, Preferences
from turnout.rpc.errors import code_name, to_status
from turnout.rpc.guard import MethodGuard
from turnout.rpc.parsing.reader import SMALL_BYTES, MessageReader, MessageT
from turnout.rpc.parsing.templates import Templates
from turnout.rpc.send_clock import SendClock
from turnout.rpc.transport.port import JOINED_BYTES, Parts, Response, RpcCall, StatusError, Stream
from turnout.serving.data_plane.inference import InferenceRequest
from turnout.serving.inputs.limits import InputLimits
from turnout.telemetry.tracing.context import SpanContext, read
from turnout.telemetry.tracing.trace import Operation

_OK = ("OK", False)

_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span an error, by OpenTelemetry's conventions; the caller causes the others."""


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[MessageT]):
    """An inference method, and what all its requests share.

    Attributes:
        service: Full name of its service.
        operation: Its name in traces.
        reader: Parses its requests.
        preferences: Reads preferences from metadata.
        templates: Remembered requests.
        limits: On a request's contents.
        check_size: Raises Exhausted if an answer has more bytes than a message may have.
    """

    service: str
    operation: Operation
    reader: MessageReader[MessageT]
    preferences: PreferenceReader
    templates: Templates
    limits: InputLimits
    check_size: Callable[[int], None]

    def joined(self, parts: Sequence[bytes]) -> bytes:
        """Joins the parts of an answer. Raises Exhausted if it is larger than a message may be."""
        answer = b"".join(parts)
        self.check_size(len(answer))
        return answer

    def response(self, parts: Sequence[bytes]) -> Response:
        """Returns the answer of a unary call from its parts. Raises as `joined`."""
        size = sum(map(len, parts))
        self.check_size(size)
        return b"".join(parts) if size <= JOINED_BYTES else Parts(parts)

    @classmethod
    def of(
        cls,
        service: str,
        method: str,
        message: type[MessageT],
        preferences: PreferenceReader,
        guard: MethodGuard,
        templates: Templates,
        **more: Any,
    ) -> Self:
        """Returns the endpoint of a method with requests of the type `message`; `more` is for one protocol."""
        operation, reader = Operation.rpc(service, method), guard.reader(message)
        return cls(service, operation, reader, preferences, templates, guard.limits, guard.check_size, **more)


class GrpcExchange(Generic[MessageT]):
    """One request over gRPC.

    Attributes:
        endpoint: The method that was called.
        arrived: `time.monotonic()` when it came.
        heavy: Whether to parse and decode it in a thread.
        costly: Whether its answer takes long to encode even if the outputs are small.
        data: The message as received; empty once it has been read.
        parsed: The message; None until it is parsed.
    """

    details = ()
    heavy = False
    costly = False
    parsed: MessageT | None = None

    endpoint: Endpoint[MessageT]
    arrived: float
    data: bytes

    @property
    def service(self) -> str:
        """Full name of the called service."""
        return self.endpoint.service

    @property
    def operation(self) -> Operation:
        """The called method, for traces."""
        return self.endpoint.operation

    def read(self) -> None:
        """Reads the message, unless that has been done. Raises as `parse`."""
        self.parse()

    def parse(self) -> MessageT:
        """Returns the message, and parses it first if necessary. Raises as `MessageReader.parse`."""
        if (message := self.parsed) is None:
            message = self.parsed = self.endpoint.reader.parse(self.data)
            self.data = b""  # large ones are not kept twice
        return message

    def outcome(self, error: BaseException | None) -> tuple[str, bool]:
        """Returns the status code's name, and whether it is the server's fault."""
        return _OK if error is None else ((code := code_name(error)), code in _FAULTS)


class UnaryExchange(GrpcExchange[MessageT]):
    """One unary call."""

    def __init__(self, endpoint: Endpoint[MessageT], data: bytes, call: RpcCall) -> None:
        self.endpoint = endpoint
        self.data = data
        self.call = call
        self.arrived = time.monotonic()
        if len(data) > SMALL_BYTES:
            self.heavy = endpoint.reader.heavy(data)

    @property
    def caller(self) -> Caller | None:
        """Who calls."""
        return self.call.caller

    @property
    def deadline(self) -> float | None:
        """`time.monotonic()` after which the caller waits no longer."""
        return self.call.deadline

    def preferences(self) -> Preferences:
        """Returns the preferences in the call's metadata. Raises as `RpcCall.metadata` and `PreferenceReader.read`."""
        call, reader = self.call, self.endpoint.preferences
        if not call.mentions(reader.wire_keys):
            return NO_PREFERENCES
        return reader.read(call.metadata, lambda: call.host)

    def parent(self) -> SpanContext | None:
        """Returns the caller's span; None if the metadata cannot be read, which is for `preferences` to refuse."""
        try:
            return read(self.call.metadata)
        except InvalidRequest:
            return None

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> bytes:
        """Ends the call with the status of an error."""
        raise StatusError(to_status(error, request.request_id))


@dataclass(frozen=True, slots=True)
class Opened(Generic[MessageT]):
    """A stream, and what all its items share.

    Attributes:
        endpoint: The method that was called.
        stream: The stream of the items.
        preferences: What its metadata asks for.
        parent: The caller's span, by its metadata.
        deadline: `time.monotonic()` after which its client waits no longer; None for no bound.
        clock: Of its client.
    """

    endpoint: Endpoint[MessageT]
    stream: Stream
    preferences: Preferences
    parent: SpanContext | None
    deadline: float | None
    clock: SendClock = field(default_factory=SendClock)

    @classmethod
    def of(cls, endpoint: Endpoint[MessageT], stream: Stream) -> "Opened[MessageT]":
        """Reads a stream's metadata. Raises as `RpcCall.metadata` and `PreferenceReader.read`."""
        metadata = stream.metadata
        preferences = endpoint.preferences.read(metadata, lambda: stream.host)
        return cls(endpoint, stream, preferences, read(metadata), stream.deadline)


class ItemExchange(GrpcExchange[MessageT]):
    """One item of a stream, which is read before it is decoded.

    Attributes:
        opened: The stream.
        key: The item's name among those in flight; "" if it has none. Known once it is parsed.
        cancels: If the item is a cancellation, the key of the item that it cancels; None for a request.
    """

    key = ""
    cancels: str | None = None

    def __init__(self, opened: Opened[MessageT], data: bytes) -> None:
        self.endpoint = opened.endpoint
        self.data = data
        self.opened = opened
        self.arrived = time.monotonic()
        if len(data) > SMALL_BYTES:
            self.heavy = self.endpoint.reader.heavy(data)

    @property
    def caller(self) -> Caller | None:
        """Who calls."""
        return self.opened.stream.caller

    @property
    def deadline(self) -> float | None:
        """`time.monotonic()` after which the caller waits no longer."""
        return self.opened.deadline

    def parent(self) -> SpanContext | None:
        """Returns the caller's span."""
        return self.opened.parent
