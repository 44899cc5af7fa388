"""`turnout.v1.PredictionService`: decode, hand to the data plane, encode."""

import time

from turnout.errors import InvalidRequest, TurnoutError
from turnout.routing.preferences import PreferenceReader
from turnout.rpc import codec
from turnout.rpc.errors import to_status
from turnout.rpc.guard import Guard
from turnout.rpc.multiplex import Multiplexer, TracedMultiplexer
from turnout.rpc.tracing import traced
from turnout.rpc.transport.port import Call, Methods, StatusError, Stream
from turnout.serving.inference import Inference, InferenceRequest
from turnout.telemetry.tracing.context import read
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.v1 import prediction_pb2 as pb

_SERVICE = "turnout.v1.PredictionService"


class PredictionMethods:
    """Answers predictions."""

    def __init__(
        self,
        inference: Inference,
        preferences: PreferenceReader,
        max_stream_items: int,
        guard: Guard,
        tracer: Tracer | None = None,
    ) -> None:
        """Prepares.

        Args:
            inference: The data plane.
            preferences: Reads what a call's metadata asks for.
            max_stream_items: Most requests under way on one stream.
            guard: Wraps the methods.
            tracer: Traces requests; None where tracing is off.
        """
        self._inference = inference
        self._preferences = preferences
        self._max_stream_items = max_stream_items
        self._guard = guard
        self._limits = guard.limits
        self._reader = guard.reader(pb.PredictRequest)
        self._tracer = tracer

    def methods(self) -> Methods:
        """Returns the service's methods, by path."""
        guard = self._guard
        guard.faults.watch(_SERVICE)
        predict = traced(self._tracer, _SERVICE, "Predict", self.predict)
        return {
            f"/{_SERVICE}/Predict": guard.unary(_SERVICE, predict),
            f"/{_SERVICE}/PredictStream": guard.streaming(_SERVICE, self.predict_stream),
        }

    async def predict(self, data: bytes, call: Call) -> bytes:
        """Runs one request."""
        arrived = time.monotonic()
        try:
            message, heavy = self._reader.parse_small(data), False
            if message is None:
                message, heavy = await self._reader.read(data)
        except InvalidRequest as error:
            self._guard.note(_SERVICE, error)
            self._inference.refuse(InferenceRequest("", "", {}, request_id=codec.new_request_id()), error)
            raise
        del data
        request = codec.envelope(message, call.deadline, arrived)
        try:
            prefer = self._preferences.preferring(call.metadata, lambda: call.host)
            exchange = codec.PredictExchange(message, self._limits, prefer)
            answer = self._guard.sized(await self._inference.answer(request, exchange, heavy=heavy))
        except TurnoutError as error:
            raise StatusError(to_status(error, request.request_id)) from None
        if request.route is not None:
            call.trailing = codec.trailing_metadata(request.route)
        return answer

    async def predict_stream(self, stream: Stream) -> None:
        """Runs many requests; answers in the order they are ready."""
        preferences = self._preferences.read(stream.metadata, lambda: stream.host)
        parts = self._inference, preferences, stream, self._max_stream_items, self._guard
        if self._tracer is None:
            await Multiplexer(*parts).run()
        else:
            await TracedMultiplexer(*parts, self._tracer, read(stream.metadata)).run()
