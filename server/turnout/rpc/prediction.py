"""`turnout.v1.PredictionService`: requests and answers of `Predict` and `PredictStream`, decoded and encoded."""

from collections.abc import Awaitable
from functools import partial

from turnout.errors import InvalidRequest, TurnoutError
from turnout.routing.preferences import PreferenceReader
from turnout.rpc import codec
from turnout.rpc.errors import to_status
from turnout.rpc.exchange import Endpoint, ItemExchange, Opened, UnaryExchange
from turnout.rpc.guard import Guard
from turnout.rpc.multiplex import Multiplexer, as_ready
from turnout.rpc.send_clock import SendClock
from turnout.rpc.transport.port import Call, Methods, Stream
from turnout.serving.data_plane import DataPlane, Pending
from turnout.serving.inference import InferenceRequest, InferenceResult
from turnout.telemetry.tracing.context import SpanContext, parse
from turnout.wire_format import length_delimited
from turnout_proto.v1 import prediction_pb2 as pb

_SERVICE = "turnout.v1.PredictionService"

_RESPONSE = pb.PredictStreamResponse.DESCRIPTOR.fields_by_name["response"].number


class PredictExchange(UnaryExchange[pb.PredictRequest]):
    """One call of Predict."""

    __slots__ = ()

    def envelope(self) -> InferenceRequest:
        """Returns what is known of a request that could not be decoded."""
        return codec.envelope(self.parsed, self.arrived)

    def decode(self) -> InferenceRequest:
        """Returns the request. Raises as `codec.decode` and `PreferenceReader.read`."""
        return codec.decode(self.parse(), self.arrived, self.call.deadline, self.preferences(), self.endpoint.limits)

    def encode(self, request: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the answer, serialised; metadata says who gave it. Raises Exhausted if it is too large."""
        self.call.trailing = codec.trailing_metadata(result.route)
        return self.endpoint.sized(codec.response(request, result).SerializeToString())


class PredictItem(ItemExchange[pb.PredictStreamRequest]):
    """One item of a PredictStream."""

    __slots__ = ("_clock", "_deadline")

    def __init__(self, opened: Opened[pb.PredictStreamRequest], clock: SendClock, data: bytes) -> None:
        """Prepares; `clock` is the stream's."""
        super().__init__(opened, data)
        self._clock = clock
        self._deadline = opened.stream.deadline

    @property
    def deadline(self) -> float | None:
        """`time.monotonic()` after which the caller waits no longer."""
        return self._deadline

    def parse(self) -> pb.PredictStreamRequest:
        """Returns the item, parsed. Its time runs since it was sent, and not since there was room for it here."""
        if self.parsed is not None:
            return self.parsed
        item = super().parse()
        self.key = item.request.request_id
        if item.WhichOneof("item") == "cancel":
            self.cancels = item.cancel
        waited = self._clock.waited(item.sent_ms / 1e3, self.arrived) if item.HasField("sent_ms") else 0.0
        if item.timeout_ms:
            ends = self.arrived + item.timeout_ms / 1e3 - waited
            self._deadline = ends if self._deadline is None else min(ends, self._deadline)
        return item

    def parent(self) -> SpanContext | None:
        """Returns the span that the item names, or else that of the stream."""
        item = self.parsed
        return parse(item.traceparent, item.tracestate) if item and item.traceparent else self.opened.parent

    def envelope(self) -> InferenceRequest:
        """Returns what is known of a request that could not be decoded."""
        return codec.envelope(None if self.parsed is None else self.parsed.request, self.arrived)

    def decode(self) -> InferenceRequest:
        """Returns the request. Raises as `codec.decode`."""
        item = self.parse()
        if item.WhichOneof("item") != "request":
            raise InvalidRequest.at("item", "expected a request or a cancel")
        if not self.key:
            raise InvalidRequest.at("request.request_id", "expected an id; answers are told apart by it")
        opened = self.opened
        return codec.decode(item.request, self.arrived, self._deadline, opened.preferences, self.endpoint.limits)

    def encode(self, request: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the answer, serialised. Raises Exhausted if it is too large."""
        # The answer is serialised by itself: put into another message, it would be copied first.
        answer = codec.response(request, result).SerializeToString()
        item = pb.PredictStreamResponse(request_id=request.request_id).SerializeToString()
        return self.endpoint.sized(b"".join((item, length_delimited(_RESPONSE, len(answer)), answer)))

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> bytes:
        """Returns an item that tells an error."""
        shown = self.key[: codec.MAX_REQUEST_ID]
        return pb.PredictStreamResponse(request_id=shown, error=to_status(error, shown)).SerializeToString()


def prediction_methods(plane: DataPlane, preferences: PreferenceReader, max_items: int, guard: Guard) -> Methods:
    """Returns the service's methods, by path.

    Args:
        plane: Answers requests.
        preferences: Reads what a call's metadata asks for.
        max_items: Most requests that are unanswered on one stream.
        guard: Wraps the methods.
    """
    guard.faults.watch(_SERVICE)
    predicting = Endpoint.of(_SERVICE, "Predict", pb.PredictRequest, preferences, guard)
    streaming = Endpoint.of(_SERVICE, "PredictStream", pb.PredictStreamRequest, preferences, guard)

    def predict(data: bytes, call: Call) -> bytes | Awaitable[bytes]:
        done = plane.begin(PredictExchange(predicting, data, call))
        return done.finish() if isinstance(done, Pending) else done

    async def predict_stream(stream: Stream) -> None:
        item = partial(PredictItem, Opened.of(streaming, stream), SendClock())
        await Multiplexer(plane, stream, item, as_ready, max_items).run()

    return {
        f"/{_SERVICE}/Predict": guard.unary(_SERVICE, predict, prompt=True),
        f"/{_SERVICE}/PredictStream": guard.streaming(_SERVICE, predict_stream),
    }
