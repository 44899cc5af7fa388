"""`turnout.v1.PredictionService`: decode, hand to the data plane, encode."""

import grpc

from turnout.errors import TurnoutError
from turnout.routing.preferences import Pairs, PreferenceReader, peer_host
from turnout.rpc import codec
from turnout.rpc.errors import abort
from turnout.rpc.malformed import Malformed, refusal, streaming, unary
from turnout.rpc.metadata import Attentive, Methods
from turnout.rpc.multiplex import Multiplexer, TracedMultiplexer
from turnout.rpc.tracing import traced
from turnout.serving.inference import Inference
from turnout.telemetry.tracing.context import read
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.v1 import prediction_pb2 as pb

Context = grpc.aio.ServicerContext[pb.PredictRequest, pb.PredictResponse]
StreamContext = grpc.aio.ServicerContext[pb.PredictStreamRequest, pb.PredictStreamResponse]

_SERVICE = "turnout.v1.PredictionService"


class PredictionMethods:
    """Answers predictions."""

    def __init__(
        self, inference: Inference, preferences: PreferenceReader, max_stream_items: int, tracer: Tracer | None = None
    ) -> None:
        """Prepares.

        Args:
            inference: The data plane.
            preferences: Reads what a call's metadata asks for.
            max_stream_items: Most requests under way on one stream.
            tracer: Traces requests; None where tracing is off.
        """
        self._inference = inference
        self._preferences = preferences
        self._max_stream_items = max_stream_items
        self._tracer = tracer

    def methods(self) -> Methods:
        """Returns the service's methods, for registration."""
        predict = traced(self._tracer, _SERVICE, "Predict", self.predict)
        return Methods(
            _SERVICE,
            {
                "Predict": Attentive.of(predict, lambda b: unary(b, pb.PredictRequest, pb.PredictResponse)),
                "PredictStream": streaming(self.predict_stream, pb.PredictStreamRequest, pb.PredictStreamResponse),
            },
            self._preferences,
        )

    async def predict(
        self, request: pb.PredictRequest | Malformed, context: Context, metadata: Pairs = ()
    ) -> pb.PredictResponse:
        """Runs one request."""
        if isinstance(request, Malformed):
            await abort(context, refusal("turnout.v1.PredictRequest"))
        call = codec.envelope(request, context.time_remaining())
        try:
            try:
                codec.fill(call, request)
                if metadata:
                    self._preferences.read(metadata, lambda: peer_host(context.peer())).apply(call)
            except TurnoutError as error:
                self._inference.refuse(call, error)
                raise
            result = self._inference.infer_now(call) or await self._inference.infer(call)
            context.set_trailing_metadata(codec.trailing_metadata(result.route))
            return codec.response(call, result)
        except TurnoutError as error:
            await abort(context, error, call.request_id)

    async def predict_stream(self, _: object, context: StreamContext) -> None:
        """Runs many requests; answers in the order they are ready."""
        try:
            preferences = self._preferences.read(context.invocation_metadata() or (), lambda: peer_host(context.peer()))
        except TurnoutError as error:
            await abort(context, error)
        stream = self._inference, preferences, context, self._max_stream_items
        if self._tracer is None:
            await Multiplexer(*stream).run()
        else:
            parent = read(context.invocation_metadata() or ())
            await TracedMultiplexer(*stream, self._tracer, parent).run()
