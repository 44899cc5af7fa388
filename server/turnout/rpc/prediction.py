"""`turnout.v1.PredictionService`: decode, hand to the data plane, encode."""

from typing import Any

import grpc

from turnout.errors import TurnoutError
from turnout.routing.preferences import PreferenceReader, peer_host
from turnout.rpc import codec
from turnout.rpc.errors import abort
from turnout.rpc.malformed import Malformed, refusal, streaming, unary
from turnout.rpc.multiplex import Multiplexer, TracedMultiplexer
from turnout.rpc.tracing import traced
from turnout.serving.inference import Inference
from turnout.telemetry.tracing.context import read
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1 import prediction_pb2_grpc

Context = grpc.aio.ServicerContext[pb.PredictRequest, pb.PredictResponse]
StreamContext = grpc.aio.ServicerContext[pb.PredictStreamRequest, pb.PredictStreamResponse]

_SERVICE = "turnout.v1.PredictionService"


class PredictionServicer(prediction_pb2_grpc.PredictionServiceServicer):
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

    def handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        """Returns the service's methods, for registration."""
        return {
            "Predict": unary(
                traced(self._tracer, _SERVICE, "Predict", self.Predict), pb.PredictRequest, pb.PredictResponse
            ),
            "PredictStream": streaming(self.PredictStream, pb.PredictStreamRequest, pb.PredictStreamResponse),
        }

    async def Predict(self, request: pb.PredictRequest | Malformed, context: Context) -> pb.PredictResponse:  # noqa: N802 - gRPC's
        """Runs one request."""
        if isinstance(request, Malformed):
            await abort(context, refusal("turnout.v1.PredictRequest"))
        call = codec.envelope(request, context.time_remaining())
        try:
            try:
                codec.fill(call, request)
                self._preferences.read(context.invocation_metadata() or (), lambda: peer_host(context.peer())).apply(
                    call
                )
            except TurnoutError as error:
                self._inference.refuse(call, error)
                raise
            result = self._inference.infer_now(call) or await self._inference.infer(call)
            context.set_trailing_metadata(codec.trailing_metadata(result.route))
            return codec.response(call, result)
        except TurnoutError as error:
            await abort(context, error, call.request_id)

    async def PredictStream(  # type: ignore[override]  # noqa: N802 - gRPC's name; it reads and writes by its context
        self, _: object, context: StreamContext
    ) -> None:
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
