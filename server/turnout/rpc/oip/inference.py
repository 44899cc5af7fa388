"""ModelInfer and ModelStreamInfer: decode, hand to the data plane, encode."""

import asyncio
import time
from dataclasses import dataclass
from typing import TypeAlias

from turnout.errors import Draining, InvalidRequest, TurnoutError
from turnout.routing.preferences import PreferenceReader, Preferences
from turnout.rpc.codec import new_request_id, trailing_metadata
from turnout.rpc.errors import code_name, to_status
from turnout.rpc.guard import Guard
from turnout.rpc.oip.exchange import FINAL, InferExchange, StreamInferExchange, envelope
from turnout.rpc.tracing import cancelled_with, end
from turnout.rpc.transport.port import Call, StatusError, Stream
from turnout.serving.inference import Inference, InferenceRequest, InferenceResult
from turnout.telemetry.tracing.context import SpanContext, read
from turnout.telemetry.tracing.trace import Operation, Trace, current
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelStreamInferResponse

SERVICE_NAME = "inference.GRPCInferenceService"
"""What clients call. The messages go by our own package's name: a process can hold them beside a client's own."""

_STREAM_OPERATION = Operation.rpc(SERVICE_NAME, "ModelStreamInfer")

_SHOWN_BYTES = 1024
"""Characters of a refused request's own names that its answer repeats."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that tells an error.

    Attributes:
        answer: Serialised.
        error: What it tells.
    """

    answer: bytes
    error: TurnoutError


Outcome: TypeAlias = bytes | Refused


class InferenceMethods:
    """Runs requests."""

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
            max_stream_items: Most requests under way on one stream; reading from it waits beyond that.
            guard: Wraps the methods.
            tracer: Traces requests; None where tracing is off.
        """
        self._inference = inference
        self._preferences = preferences
        self._max_stream_items = max_stream_items
        self._guard = guard
        self._limits = guard.limits
        self._reader = guard.reader(ModelInferRequest)
        self._tracer = tracer

    async def model_infer(self, data: bytes, call: Call) -> bytes:
        """Answers one request."""
        arrived = time.monotonic()
        try:
            message, heavy = self._reader.parse_small(data), False
            if message is None:
                message, heavy = await self._reader.read(data)
        except InvalidRequest as error:
            self._guard.note(SERVICE_NAME, error)
            self._inference.refuse(InferenceRequest("", "", {}, request_id=new_request_id()), error)
            raise
        del data
        request = envelope(message, call.deadline, arrived)
        try:
            prefer = self._preferences.preferring(call.metadata, lambda: call.host)
            exchange = InferExchange(message, self._limits, prefer)
            answer = self._guard.sized(await self._inference.answer(request, exchange, heavy=heavy))
        except TurnoutError as error:
            raise StatusError(to_status(error, request.request_id)) from None
        if request.route is not None:
            call.trailing = trailing_metadata(request.route)
        return answer

    async def model_stream_infer(self, stream: Stream) -> None:
        """Answers the requests of one stream, in their order."""
        preferences = self._preferences.read(stream.metadata, lambda: stream.host)
        parts = self._inference, preferences, stream, self._max_stream_items, self._guard
        if self._tracer is None:
            await OrderedStream(*parts).run()
        else:
            await TracedOrderedStream(*parts, self._tracer, read(stream.metadata)).run()


class OrderedStream:
    """Serves one stream from its opening to its end: many requests under way, answered in the order they came.

        reader: read -> answer at once, or start a task      writer: oldest answer -> stream

    Triton keeps that order for models with one answer a request, and its clients rely on it where they set no ids.
    """

    def __init__(
        self, inference: Inference, preferences: Preferences, stream: Stream, max_items: int, guard: Guard
    ) -> None:
        self._guard = guard
        self._reader = guard.reader(ModelInferRequest)
        self._inference = inference
        self._preferences = preferences
        self._stream = stream
        self._room = asyncio.Semaphore(max_items)
        self._oldest: asyncio.Queue[asyncio.Task[Outcome] | Outcome | None]
        self._oldest = asyncio.Queue()

    async def run(self) -> None:
        """Reads until the client half-closes or the server drains, then finishes what is under way.

        A broken stream cancels all that is under way. A drained one ends with UNAVAILABLE, which sends its client to
        open another, elsewhere.
        """
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(group))
            writer = group.create_task(self._write())
            draining = group.create_task(self._inference.draining.wait())
            await asyncio.wait([reader, writer, draining], return_when=asyncio.FIRST_COMPLETED)
            drained = not reader.done()
            reader.cancel()
            draining.cancel()
            self._oldest.put_nowait(None)
            await writer
        if drained:
            raise Draining("the server is stopping", retry_after=1.0)

    async def _read(self, group: asyncio.TaskGroup) -> None:
        while (data := await self._stream.read()) is not None:
            await self._room.acquire()
            self._oldest.put_nowait(await self._take(data, group))
            del data

    async def _write(self) -> None:
        while (item := await self._oldest.get()) is not None:
            outcome = await item if isinstance(item, asyncio.Task) else item
            await self._stream.write(outcome.answer if isinstance(outcome, Refused) else outcome)
            self._room.release()

    async def _take(self, data: bytes, group: asyncio.TaskGroup) -> asyncio.Task[Outcome] | Outcome:
        try:
            message, heavy = self._reader.parse_small(data), False
            if message is None:
                message, heavy = await self._reader.read(data)
        except InvalidRequest as error:
            self._guard.note(SERVICE_NAME, error)
            call = InferenceRequest("", "", {}, request_id=new_request_id())
            self._inference.refuse(call, error)
            return _refused(ModelInferRequest(), call, error)
        return self._begin(message, group, heavy=heavy)

    def _begin(
        self, message: ModelInferRequest, group: asyncio.TaskGroup, *, heavy: bool
    ) -> asyncio.Task[Outcome] | Outcome:
        """Answers at once where that is possible, else starts a task that will."""
        call = envelope(message, self._stream.deadline, time.monotonic())
        exchange = StreamInferExchange(message, self._guard.limits, self._preferences.apply)
        result = None
        if not heavy:
            try:
                result = self._inference.begin(call, exchange)
                if result is not None and result.light and not exchange.costly:
                    return self._guard.sized(self._inference.encoded(call, result, exchange))
            except TurnoutError as error:
                return _refused(message, call, error)
        return group.create_task(self._infer(message, call, result, exchange, heavy))

    async def _infer(
        self,
        message: ModelInferRequest,
        call: InferenceRequest,
        result: InferenceResult | None,
        exchange: StreamInferExchange,
        heavy: bool,
    ) -> Outcome:
        try:
            if heavy:
                await self._inference.decode_in_thread(call, exchange)
            return self._guard.sized(await self._inference.finish(call, result, exchange))
        except TurnoutError as error:
            return _refused(message, call, error)


class TracedOrderedStream(OrderedStream):
    """Serves one stream, and traces its requests."""

    def __init__(
        self,
        inference: Inference,
        preferences: Preferences,
        stream: Stream,
        max_items: int,
        guard: Guard,
        tracer: Tracer,
        parent: SpanContext | None,
    ) -> None:
        super().__init__(inference, preferences, stream, max_items, guard)
        self._tracer = tracer
        self._parent = parent

    def _begin(
        self, message: ModelInferRequest, group: asyncio.TaskGroup, *, heavy: bool
    ) -> asyncio.Task[Outcome] | Outcome:
        trace = self._tracer.begin(_STREAM_OPERATION, self._parent)
        if trace is None:
            return super()._begin(message, group, heavy=heavy)
        token = current.set(trace)
        try:
            item = super()._begin(message, group, heavy=heavy)
        finally:
            current.reset(token)
        if not isinstance(item, asyncio.Task):
            _end(trace, item)
        return item

    async def _infer(
        self,
        message: ModelInferRequest,
        call: InferenceRequest,
        result: InferenceResult | None,
        exchange: StreamInferExchange,
        heavy: bool,
    ) -> Outcome:
        trace = current.get()
        if trace is None:
            return await super()._infer(message, call, result, exchange, heavy)
        with cancelled_with(trace):
            outcome = await super()._infer(message, call, result, exchange, heavy)
        _end(trace, outcome)
        return outcome


def _end(trace: Trace, outcome: Outcome) -> None:
    """Ends a request's trace; its answer has no status code, but the error that it tells has one."""
    if isinstance(outcome, Refused):
        end(trace, code_name(outcome.error), outcome.error.message)
    else:
        end(trace)


def _refused(message: ModelInferRequest, call: InferenceRequest, error: TurnoutError) -> Refused:
    response = ModelStreamInferResponse(error_message=to_status(error, call.request_id).message)
    infer_response = response.infer_response
    infer_response.id = message.id[:_SHOWN_BYTES]
    infer_response.model_name = message.model_name[:_SHOWN_BYTES]
    infer_response.model_version = message.model_version[:_SHOWN_BYTES]
    infer_response.parameters[FINAL].bool_param = True
    return Refused(response.SerializeToString(), error)
