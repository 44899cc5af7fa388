"""`turnout.v1.PredictionService`: decodes requests and encodes responses of `Predict` and `PredictStream`."""

from abc import abstractmethod
from collections.abc import Awaitable
from functools import partial

from turnout.chunks import Serialized
from turnout.errors import InvalidRequest, TurnoutError
from turnout.routing.request_metadata import PreferenceReader, Preferences
from turnout.rpc import codec
from turnout.rpc.errors import to_status
from turnout.rpc.exchange import Endpoint, GrpcExchange, ItemExchange, Opened, UnaryExchange
from turnout.rpc.guard import MethodGuard
from turnout.rpc.multiplex import Multiplexer, as_ready
from turnout.rpc.parsing.reader import MessageT
from turnout.rpc.parsing.templates import Fields, Templates
from turnout.rpc.transport.port import Methods, Response, RpcCall, Stream
from turnout.serving.data_plane.data_plane import DataPlane, Pending
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult
from turnout.telemetry.tracing.context import SpanContext, parse
from turnout.wire_format import Lengths
from turnout_proto.v1 import prediction_pb2 as pb

_SERVICE = "turnout.v1.PredictionService"

_ITEM_ID, _RESPONSE = (
    Lengths(pb.PredictStreamResponse.DESCRIPTOR.fields_by_name[name].number) for name in ("request_id", "response")
)


def _fields(request: int, sent: int) -> Fields:
    numbers = {name: field.number for name, field in pb.PredictRequest.DESCRIPTOR.fields_by_name.items()}
    raw = pb.Tensor.DESCRIPTOR.fields_by_name["raw"].number
    return Fields(request, numbers["request_id"], numbers["inputs"], raw, sent)


_ITEM = pb.PredictStreamRequest.DESCRIPTOR.fields_by_name

FIELDS = _fields(request=0, sent=0)
"""The fields in which a request may differ from the cached request that it matches."""

ITEM_FIELDS = _fields(_ITEM["request"].number, _ITEM["sent_ms"].number)
"""The same fields for an item of a stream."""


class _Predict(GrpcExchange[MessageT]):
    """A PredictRequest from a unary call or a stream."""

    @abstractmethod
    def message(self) -> pb.PredictRequest | None:
        """Returns the parsed request; None if it has not been parsed."""

    def parsed_names(self) -> tuple[str, str, str]:
        message = self.message()
        return ("", "", "") if message is None else (message.model, message.version, message.request_id)

    def request(self, deadline: float | None, preferences: Preferences) -> InferenceRequest:
        """Returns the decoded request, for the caller's deadline and preferences. Raises as `codec.decode`."""
        if self.found is not None:
            if len(self.found[1]) > codec.MAX_REQUEST_ID:
                codec.check_id(self.found[1])
            return self.matched(self.found, deadline, preferences)
        message = self.message()
        assert message is not None, "it is decoded once it is read"
        request = codec.decode(message, self.arrived, deadline, preferences, self.endpoint.guard.limits)
        if self.outline is not None:
            model, selector, outputs = message.model, message.version, tuple(message.outputs)
            self.endpoint.templates.remember(
                self.outline, model, selector, request.inputs, outputs, {}, self.timeout(), message.routing_key
            )
        return request

    def timeout(self) -> float | None:
        return None


class PredictExchange(_Predict[pb.PredictRequest], UnaryExchange[pb.PredictRequest]):
    """A call of Predict."""

    def message(self) -> pb.PredictRequest | None:
        """Returns the parsed request; None if it has not been parsed."""
        return self.parsed

    def decode(self) -> InferenceRequest:
        """Returns the decoded request. Raises the same errors as `request` and `PreferenceReader.read`."""
        self.read()
        return self.request(self.call.deadline, self.preferences())

    def encode(self, request: InferenceRequest, result: InferenceResult) -> Response:
        """Returns the serialized response, and sets the trailing metadata. Raises Exhausted if it is too large."""
        self.call.trailing = codec.trailing_metadata(result.route)
        return self.endpoint.response(self.call, codec.response(request, result))


class PredictItem(_Predict[pb.PredictStreamRequest], ItemExchange[pb.PredictStreamRequest]):
    """An item of a PredictStream."""

    _deadline: float | None = None

    @property
    def deadline(self) -> float | None:
        """The caller's deadline on the `time.monotonic()` clock, in seconds; until it is read, the stream's."""
        return self.opened.deadline if self._deadline is None else self._deadline

    def message(self) -> pb.PredictRequest | None:
        """Returns the parsed request; None if it has not been parsed."""
        return None if self.parsed is None else self.parsed.request

    def timeout(self) -> float | None:
        """Returns the timeout in the item in seconds; None if it has none."""
        return self.parsed.timeout_ms / 1e3 if self.parsed is not None and self.parsed.timeout_ms else None

    def read(self) -> None:
        """Reads the item. Raises the same errors as `parse`.

        The item's timeout counts from the time at which the client sent it, not from the time at which it is read
        here. An item that names a span is not cached, since the next item names a different span.
        """
        if self.found is not None or self.parsed is not None:
            return
        super().read()
        if self.found is not None:
            template, self.key, _, sent = self.found
            timeout = template.timeout
        else:
            item = self.parse()
            self.key = item.request.request_id
            if item.WhichOneof("item") == "cancel":
                self.cancels = item.cancel
            sent = item.sent_ms if item.HasField("sent_ms") else None
            timeout = self.timeout()
            if item.traceparent:
                self.outline = None
        opened = self.opened
        self._deadline = opened.deadline
        waited = 0.0 if sent is None else opened.clock.waited(sent / 1e3, self.arrived)
        if timeout is not None:
            ends = self.arrived + timeout - waited
            self._deadline = ends if self._deadline is None else min(ends, self._deadline)

    def parent(self) -> SpanContext | None:
        """Returns the span that the item names, or else the stream's span."""
        item = self.parsed
        return parse(item.traceparent, item.tracestate) if item and item.traceparent else self.opened.parent

    def decode(self) -> InferenceRequest:
        """Returns the decoded request. Raises the same errors as `request`."""
        if self.parsed is not None and self.parsed.WhichOneof("item") != "request":
            raise InvalidRequest.at("item", "expected a request or a cancel")
        if not self.key:
            raise InvalidRequest.at("request.request_id", "expected an id; answers are told apart by it")
        return self.request(self._deadline, self.opened.preferences)

    def encode(self, request: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the serialized response. Raises Exhausted if it is too large."""
        parts = codec.response(request, result)
        request_id = request.request_id.encode()
        size = sum(map(len, parts))
        return self.endpoint.joined(
            self.opened.stream, (_ITEM_ID[len(request_id)], request_id, _RESPONSE[size], *parts)
        )

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> bytes:
        """Returns a serialized item that reports an error."""
        request_id = self.key[: codec.MAX_REQUEST_ID]
        return pb.PredictStreamResponse(request_id=request_id, error=to_status(error, request_id)).SerializeToString()


def prediction_methods(plane: DataPlane, preferences: PreferenceReader, max_items: int, guard: MethodGuard) -> Methods:
    """Returns the methods of the prediction service, by path. A stream may have `max_items` unanswered requests."""
    guard.faults.watch(_SERVICE)
    predicting = Endpoint.of(_SERVICE, "Predict", pb.PredictRequest, preferences, guard, Templates(FIELDS))
    streaming = Endpoint.of(
        _SERVICE, "PredictStream", pb.PredictStreamRequest, preferences, guard, Templates(ITEM_FIELDS)
    )

    def predict(data: Serialized, call: RpcCall) -> Response | Awaitable[Response]:
        done = plane.begin(PredictExchange(predicting, data, call))
        return done.finish() if isinstance(done, Pending) else done

    async def predict_stream(stream: Stream) -> None:
        item = partial(PredictItem, Opened.of(streaming, stream))
        await Multiplexer(plane, stream, item, as_ready, max_items, guard.unsent).run()

    return {
        f"/{_SERVICE}/Predict": guard.unary(_SERVICE, predict, prompt=True),
        f"/{_SERVICE}/PredictStream": guard.streaming(_SERVICE, predict_stream),
    }
