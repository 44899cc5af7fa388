"""ModelInfer and ModelStreamInfer: decode, hand to the data plane, encode."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

import grpc

from turnout.errors import Draining, ModelFailure, TurnoutError
from turnout.routing.preferences import Pairs, PreferenceReader, Preferences, peer_host
from turnout.rpc.codec import trailing_metadata
from turnout.rpc.errors import abort, to_status
from turnout.rpc.malformed import Malformed, refusal
from turnout.rpc.oip.exchange import answer, envelope, fill
from turnout.rpc.tracing import cancelled_with, end
from turnout.serving.inference import Inference, InferenceRequest, InferenceResult
from turnout.telemetry.tracing.context import SpanContext, read
from turnout.telemetry.tracing.trace import Operation, Trace, current
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

Context = grpc.aio.ServicerContext[ModelInferRequest, ModelInferResponse]
StreamContext = grpc.aio.ServicerContext[ModelInferRequest, ModelStreamInferResponse]

_LOG = logging.getLogger(__name__)

_REQUEST = "inference.ModelInferRequest"

_STREAM_OPERATION = Operation.rpc("inference.GRPCInferenceService", "ModelStreamInfer")

_FINAL = "triton_final_response"
"""Every request has one answer, so every answer is its request's last."""


class InferenceMethods:
    """Runs requests."""

    def __init__(
        self, inference: Inference, preferences: PreferenceReader, max_stream_items: int, tracer: Tracer | None = None
    ) -> None:
        """Prepares.

        Args:
            inference: The data plane.
            preferences: Reads what a call's metadata asks for.
            max_stream_items: Most requests under way on one stream; reading from it waits beyond that.
            tracer: Traces requests; None where tracing is off.
        """
        self._inference = inference
        self._preferences = preferences
        self._max_stream_items = max_stream_items
        self._tracer = tracer

    async def model_infer(
        self, message: ModelInferRequest | Malformed, context: Context, metadata: Pairs = ()
    ) -> ModelInferResponse:
        """Answers one request."""
        if isinstance(message, Malformed):
            await abort(context, refusal(_REQUEST))
        call = envelope(message, context.time_remaining())
        try:
            try:
                classes = fill(call, message)
                if metadata:
                    self._preferences.read(metadata, lambda: peer_host(context.peer())).apply(call)
            except TurnoutError as error:
                self._inference.refuse(call, error)
                raise
            result = self._inference.infer_now(call) or await self._inference.infer(call)
            context.set_trailing_metadata(trailing_metadata(result.route))
            response = ModelInferResponse()
            answer(response, message, result, classes)
            return response
        except TurnoutError as error:
            await abort(context, error, call.request_id)
        except Exception as error:  # noqa: BLE001 - grpcio would tell the client the exception's own words
            await abort(context, unexpected(error), call.request_id)

    async def model_stream_infer(
        self, messages: AsyncIterator[ModelInferRequest | Malformed], context: StreamContext
    ) -> None:
        """Answers the requests of one stream, in their order."""
        try:
            preferences = self._preferences.read(context.invocation_metadata() or (), lambda: peer_host(context.peer()))
        except TurnoutError as error:
            await abort(context, error)
        stream = self._inference, preferences, context, self._max_stream_items
        if self._tracer is None:
            await OrderedStream(*stream).run(messages)
        else:
            parent = read(context.invocation_metadata() or ())
            await TracedOrderedStream(*stream, self._tracer, parent).run(messages)


class OrderedStream:
    """Serves one stream from its opening to its end: many requests under way, answered in the order they came.

        reader: read -> answer at once, or start a task      writer: oldest answer -> stream

    Triton keeps that order for models with one answer a request, and its clients rely on it where they set no ids.
    """

    def __init__(self, inference: Inference, preferences: Preferences, context: StreamContext, max_items: int) -> None:
        self._inference = inference
        self._preferences = preferences
        self._context = context
        self._room = asyncio.Semaphore(max_items)
        self._oldest: asyncio.Queue[asyncio.Task[ModelStreamInferResponse] | ModelStreamInferResponse | None]
        self._oldest = asyncio.Queue()

    async def run(self, messages: AsyncIterator[ModelInferRequest | Malformed]) -> None:
        """Reads until the client half-closes or the server drains, then finishes what is under way.

        A broken stream cancels all that is under way. A drained one ends with UNAVAILABLE, which sends its client to
        open another, elsewhere.
        """
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(messages, group))
            writer = group.create_task(self._write())
            draining = group.create_task(self._inference.draining.wait())
            await asyncio.wait([reader, writer, draining], return_when=asyncio.FIRST_COMPLETED)
            drained = not reader.done()
            reader.cancel()
            draining.cancel()
            self._oldest.put_nowait(None)
            await writer
        if drained:
            await abort(self._context, Draining("the server is stopping", retry_after=1.0))

    async def _read(self, messages: AsyncIterator[ModelInferRequest | Malformed], group: asyncio.TaskGroup) -> None:
        async for message in messages:
            await self._room.acquire()
            self._oldest.put_nowait(_unreadable() if isinstance(message, Malformed) else self._begin(message, group))

    async def _write(self) -> None:
        while (item := await self._oldest.get()) is not None:
            await self._context.write(await item if isinstance(item, asyncio.Task) else item)
            self._room.release()

    def _begin(
        self, message: ModelInferRequest, group: asyncio.TaskGroup
    ) -> asyncio.Task[ModelStreamInferResponse] | ModelStreamInferResponse:
        """Answers at once where that is possible, else starts a task that will."""
        call = envelope(message, self._context.time_remaining())
        try:
            classes = self._fill(call, message)
            result = self._inference.infer_now(call)
            if result is not None:
                return _answered(message, result, classes)
        except TurnoutError as error:
            return _failed(message, call, error)
        except Exception as error:  # noqa: BLE001 - an item's trouble is its own answer, never the stream's end
            return _failed(message, call, unexpected(error))
        return group.create_task(self._infer(message, call, classes))

    def _fill(self, call: InferenceRequest, message: ModelInferRequest) -> Mapping[str, int]:
        try:
            classes = fill(call, message)
        except TurnoutError as error:
            self._inference.refuse(call, error)
            raise
        self._preferences.apply(call)
        return classes

    async def _infer(
        self, message: ModelInferRequest, call: InferenceRequest, classes: Mapping[str, int]
    ) -> ModelStreamInferResponse:
        try:
            return _answered(message, await self._inference.infer(call), classes)
        except TurnoutError as error:
            return _failed(message, call, error)
        except Exception as error:  # noqa: BLE001 - as above
            return _failed(message, call, unexpected(error))


class TracedOrderedStream(OrderedStream):
    """Serves one stream, and traces its requests."""

    def __init__(
        self,
        inference: Inference,
        preferences: Preferences,
        context: StreamContext,
        max_items: int,
        tracer: Tracer,
        parent: SpanContext | None,
    ) -> None:
        super().__init__(inference, preferences, context, max_items)
        self._tracer = tracer
        self._parent = parent

    def _begin(
        self, message: ModelInferRequest, group: asyncio.TaskGroup
    ) -> asyncio.Task[ModelStreamInferResponse] | ModelStreamInferResponse:
        trace = self._tracer.begin(_STREAM_OPERATION, self._parent)
        if trace is None:
            return super()._begin(message, group)
        token = current.set(trace)
        try:
            item = super()._begin(message, group)
        finally:
            current.reset(token)
        if not isinstance(item, asyncio.Task):
            _end(trace, item)
        return item

    async def _infer(
        self, message: ModelInferRequest, call: InferenceRequest, classes: Mapping[str, int]
    ) -> ModelStreamInferResponse:
        trace = current.get()
        if trace is None:
            return await super()._infer(message, call, classes)
        with cancelled_with(trace):
            response = await super()._infer(message, call, classes)
        _end(trace, response)
        return response


def _end(trace: Trace, response: ModelStreamInferResponse) -> None:
    """Ends a request's trace; its answer has no status code, but the data plane noted one."""
    if response.error_message:
        end(trace, trace.code or "INTERNAL", response.error_message)
    else:
        end(trace)


def unexpected(error: Exception) -> ModelFailure:
    """Logs an error that nobody foresaw, and returns what a client may know of it."""
    _LOG.error("unexpected error", exc_info=error)
    return ModelFailure(f"the request failed ({type(error).__name__})")


def _unreadable() -> ModelStreamInferResponse:
    return ModelStreamInferResponse(error_message=refusal(_REQUEST).message)


def _answered(
    message: ModelInferRequest, result: InferenceResult, classes: Mapping[str, int]
) -> ModelStreamInferResponse:
    response = ModelStreamInferResponse()
    answer(response.infer_response, message, result, classes)
    response.infer_response.parameters[_FINAL].bool_param = True
    return response


def _failed(message: ModelInferRequest, call: InferenceRequest, error: TurnoutError) -> ModelStreamInferResponse:
    response = ModelStreamInferResponse(error_message=to_status(error, call.request_id).message)
    infer_response = response.infer_response
    infer_response.id = message.id
    infer_response.model_name = message.model_name
    infer_response.model_version = message.model_version
    infer_response.parameters[_FINAL].bool_param = True
    return response
