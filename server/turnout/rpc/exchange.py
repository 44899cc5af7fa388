"""The parts of an inference exchange over gRPC that do not depend on the protocol: parsing and error reporting.

A unary call is one request, and an error becomes the status of the call. On a stream, each item is a request, and an
error is sent as an item. The parent span of a streamed request is the span that the item names, or else the span in
the stream's metadata.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self

from turnout.admission.unread import LARGE_BYTES, CountedBytes
from turnout.auth.caller import Caller
from turnout.chunks import Serialized
from turnout.errors import InvalidRequest, TurnoutError
from turnout.routing.request_metadata import NO_PREFERENCES, PreferenceReader, Preferences
from turnout.rpc.codec import MAX_REQUEST_ID, logged_id, new_request_id
from turnout.rpc.errors import code_name, to_status
from turnout.rpc.guard import MethodGuard
from turnout.rpc.parsing.reader import SMALL_BYTES, MessageReader, MessageT
from turnout.rpc.parsing.templates import Found, Outline, Templates
from turnout.rpc.send_clock import SendClock
from turnout.rpc.transport.port import JOINED_BYTES, Parts, Response, RpcCall, StatusError, Stream
from turnout.serving.data_plane.inference import InferenceRequest
from turnout.telemetry.tracing.context import SpanContext, read
from turnout.telemetry.tracing.trace import Operation

_OK = ("OK", False)

_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Status codes that mark a server span as failed under OpenTelemetry's conventions. Callers cause all other codes."""


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[MessageT]):
    """An inference method, with the objects that all its requests share."""

    service: str
    operation: Operation
    reader: MessageReader[MessageT]
    preferences: PreferenceReader
    templates: Templates
    guard: MethodGuard

    def joined(self, call: RpcCall, parts: Sequence[bytes]) -> bytes:
        """Joins the parts of a response.

        Raises:
            Exhausted: The response exceeds the maximum message size, or clients have not read too many others.
        """
        answer = b"".join(parts)
        size = len(answer)
        self.guard.check_size(size)
        return (
            answer if size <= LARGE_BYTES else CountedBytes.of(answer, self.guard.unsent.reserve(call.connection, size))
        )

    def response(self, call: RpcCall, parts: Sequence[bytes]) -> Response:
        """Returns the response of a unary call from its parts. Raises the same errors as `joined`."""
        size = sum(map(len, parts))
        if size <= JOINED_BYTES:
            return self.joined(call, parts)
        self.guard.check_size(size)
        return Parts(parts, self.guard.unsent.reserve(call.connection, size))

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
        """Returns the endpoint of a method whose requests are of type `message`.

        `more` contains the additional attributes of a protocol's own endpoint class.
        """
        operation, reader = Operation.rpc(service, method), guard.reader(message)
        return cls(service, operation, reader, preferences, templates, guard, **more)


class GrpcExchange(Generic[MessageT]):
    """One request over gRPC.

    Attributes:
        arrived: Arrival time of the request on the `time.monotonic()` clock, in seconds.
        heavy: Whether to parse and decode the message in a thread.
        costly: Whether the response is slow to encode even if the outputs are small.
        data: The message as received; empty once it has been read.
        parsed: The parsed message; None until it is parsed.
        found: The cached request that the message matches; None if it matches none and has to be parsed.
        outline: Positions of the variable fields of a message to cache; None if it should not be cached.
    """

    details = ()
    heavy = False
    costly = False
    parsed: MessageT | None = None
    found: Found | None = None
    outline: Outline | None = None

    endpoint: Endpoint[MessageT]
    arrived: float
    data: Serialized

    @property
    def service(self) -> str:
        """Full name of the called service."""
        return self.endpoint.service

    @property
    def operation(self) -> Operation:
        """Name of the called method in traces."""
        return self.endpoint.operation

    def read(self) -> None:
        """Finds the cached request that the message matches, or else parses the message. Raises as `parse`."""
        if self.found is not None or self.parsed is not None:
            return
        templates, data = self.endpoint.templates, self.data
        found = self.found = templates.find(data)
        if found is None:
            self.data = data = bytes(data)  # and the chunks are freed
            self.parse()
            self.outline = templates.outline(data)
        else:
            self.data = b""

    def parse(self) -> MessageT:
        """Returns the message, parsing it on the first call. Raises the same errors as `MessageReader.parse`."""
        if (message := self.parsed) is None:
            message = self.parsed = self.endpoint.reader.parse(self.data)
            self.data = b""  # avoids keeping a large message twice
        return message

    def parsed_names(self) -> tuple[str, str, str]:
        """Returns `names` of a message that matches no cached request."""
        raise NotImplementedError

    def names(self) -> tuple[str, str, str]:
        """Returns the model, the selector and the id of the request as the client wrote them; "" if unknown."""
        if self.found is None:
            return self.parsed_names()
        template, request_id, _, _ = self.found
        return template.model, template.selector, request_id

    def envelope(self) -> InferenceRequest:
        """Returns a request with the fields that are known although decoding failed."""
        model, selector, request_id = self.names()
        return InferenceRequest(model, selector, {}, request_id=logged_id(request_id), arrived=self.arrived)

    def matched(self, found: Found, deadline: float | None, preferences: Preferences) -> InferenceRequest:
        """Returns the request that matches a cached one, for the caller's deadline and preferences."""
        template, request_id, inputs, _ = found
        return InferenceRequest(
            template.model,
            preferences.selector_of(template.selector),
            inputs,
            template.outputs,
            request_id[:MAX_REQUEST_ID] or new_request_id(),
            template.routing_key or preferences.routing_key,
            deadline,
            self.arrived,
            preferences.baseline_only,
            template,
        )

    def outcome(self, error: BaseException | None) -> tuple[str, bool]:
        """Returns the name of the status code, and whether the server is at fault."""
        return _OK if error is None else ((code := code_name(error)), code in _FAULTS)


class UnaryExchange(GrpcExchange[MessageT]):
    """A unary call."""

    def __init__(self, endpoint: Endpoint[MessageT], data: Serialized, call: RpcCall) -> None:
        self.endpoint = endpoint
        self.data = data
        self.call = call
        self.arrived = time.monotonic()
        if len(data) > SMALL_BYTES:
            self.heavy = endpoint.reader.heavy(data)

    @property
    def caller(self) -> Caller | None:
        """The authenticated caller; None if unknown."""
        return self.call.caller

    @property
    def deadline(self) -> float | None:
        """The caller's deadline on the `time.monotonic()` clock, in seconds; None if it has none."""
        return self.call.deadline

    def preferences(self) -> Preferences:
        """Returns the preferences in the call's metadata. Raises the same errors as `RpcCall.metadata` and
        `PreferenceReader.read`.
        """
        call, reader = self.call, self.endpoint.preferences
        if not call.mentions(reader.wire_keys):
            return NO_PREFERENCES
        return reader.read(call.metadata, lambda: call.host)

    def parent(self) -> SpanContext | None:
        """Returns the caller's span; None if the caller sent none, or metadata that `preferences` refuses."""
        try:
            return read(self.call.metadata)
        except InvalidRequest:
            return None

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> bytes:
        """Ends the call with the status for an error."""
        raise StatusError(to_status(error, request.request_id))


@dataclass(frozen=True, slots=True)
class Opened(Generic[MessageT]):
    """An open stream, with the attributes that all its items share.

    Attributes:
        preferences: Routing preferences from the stream's metadata.
        parent: The caller's span, from the stream's metadata.
        deadline: The client's deadline on the `time.monotonic()` clock, in seconds; None if it has none.
    """

    endpoint: Endpoint[MessageT]
    stream: Stream
    preferences: Preferences
    parent: SpanContext | None
    deadline: float | None
    clock: SendClock = field(default_factory=SendClock)

    @classmethod
    def of(cls, endpoint: Endpoint[MessageT], stream: Stream) -> "Opened[MessageT]":
        """Opens a stream by reading its metadata. Raises the same errors as `RpcCall.metadata` and
        `PreferenceReader.read`.
        """
        metadata = stream.metadata
        preferences = endpoint.preferences.read(metadata, lambda: stream.host)
        return cls(endpoint, stream, preferences, read(metadata), stream.deadline)


class ItemExchange(GrpcExchange[MessageT]):
    """One item of a stream, which is read before it is decoded.

    Attributes:
        key: The key that identifies the item among those in flight; "" if it has none. Set once the item is parsed.
        cancels: If the item is a cancellation, the key of the item that it cancels; None for a request.
    """

    key = ""
    cancels: str | None = None

    def __init__(self, opened: Opened[MessageT], data: Serialized) -> None:
        self.endpoint = opened.endpoint
        self.data = data
        self.opened = opened
        self.arrived = time.monotonic()
        if len(data) > SMALL_BYTES:
            self.heavy = self.endpoint.reader.heavy(data)

    @property
    def caller(self) -> Caller | None:
        """The authenticated caller; None if unknown."""
        return self.opened.stream.caller

    @property
    def deadline(self) -> float | None:
        """The caller's deadline on the `time.monotonic()` clock, in seconds; None if it has none."""
        return self.opened.deadline

    def parent(self) -> SpanContext | None:
        """Returns the caller's span; None if the caller sent none."""
        return self.opened.parent
