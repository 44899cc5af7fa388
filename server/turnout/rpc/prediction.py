"""`turnout.v1.PredictionService`: decode, hand to the data plane, encode."""

import time
from typing import Any

import grpc

from turnout.errors import InvalidRequest, TurnoutError
from turnout.routing.preferences import Pairs, PreferenceReader, peer_host
from turnout.rpc import codec
from turnout.rpc.errors import abort
from turnout.rpc.guard import Guard
from turnout.rpc.metadata import Attentive, Methods
from turnout.rpc.multiplex import Multiplexer, TracedMultiplexer
from turnout.rpc.reading import Unparsed
from turnout.rpc.tracing import traced
from turnout.serving.inference import Inference, InferenceRequest
from turnout.telemetry.tracing.context import read
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.v1 import prediction_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]

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
        """Returns the service's methods, for registration."""
        predict = traced(self._tracer, _SERVICE, "Predict", self.predict)
        guard = self._guard
        guard.faults.watch(_SERVICE)
        return Methods(
            _SERVICE,
            {
                "Predict": Attentive.of(predict, lambda b: guard.unary(_SERVICE, b, pb.PredictRequest)),
                "PredictStream": guard.streaming(_SERVICE, self.predict_stream, pb.PredictStreamRequest),
            },
            self._preferences,
        )

    async def predict(self, request: pb.PredictRequest | Unparsed, context: Context, metadata: Pairs = ()) -> bytes:
        """Runs one request."""
        heavy, arrived = False, None
        if isinstance(request, Unparsed):
            arrived = time.monotonic()
            try:
                request, heavy = await self._reader.read(request)
            except InvalidRequest as error:
                self._inference.refuse(InferenceRequest("", "", {}, request_id=codec.new_request_id()), error)
                raise
        call = codec.envelope(request, context.time_remaining())
        if arrived is not None:
            call.arrived = arrived
        try:
            prefer = self._preferences.preferring(metadata, lambda: peer_host(context.peer())) if metadata else None
            exchange = codec.PredictExchange(request, self._limits, prefer)
            answer = self._guard.sized(await self._inference.answer(call, exchange, heavy=heavy))
            if call.route is not None:
                context.set_trailing_metadata(codec.trailing_metadata(call.route))
            return answer
        except TurnoutError as error:
            await abort(context, error, call.request_id)

    async def predict_stream(self, _: object, context: Context) -> None:
        """Runs many requests; answers in the order they are ready."""
        preferences = self._preferences.read(context.invocation_metadata() or (), lambda: peer_host(context.peer()))
        stream = self._inference, preferences, context, self._max_stream_items, self._guard
        if self._tracer is None:
            await Multiplexer(*stream).run()
        else:
            parent = read(context.invocation_metadata() or ())
            await TracedMultiplexer(*stream, self._tracer, parent).run()
