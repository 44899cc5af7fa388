"""One PredictStream: many requests under way, answered as they are ready, each by its own status.

    reader (the handler itself): read -> answer at once, or start a task      writer task: answers -> stream

Requests of quick versions are answered in the reader without a task of their own; that is what makes a stream cost half
of unary calls. Reading pauses while as many requests as allowed are unanswered, so a client that does not read its
answers stops itself and nobody else.
"""

import asyncio
import time
from collections import deque

import grpc

from turnout.errors import Draining, InvalidRequest, ModelFailure, TurnoutError
from turnout.routing.preferences import Preferences
from turnout.rpc import codec
from turnout.rpc.errors import abort, to_status
from turnout.rpc.malformed import Malformed, refusal
from turnout.rpc.send_clock import SendClock
from turnout.rpc.tracing import NAMES, cancelled_with, end
from turnout.serving.inference import Inference, InferenceRequest, InferenceResult
from turnout.telemetry.tracing.context import SpanContext, parse
from turnout.telemetry.tracing.trace import Operation, Trace, current
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.v1 import prediction_pb2 as pb

OPERATION = Operation.rpc("turnout.v1.PredictionService", "PredictStream")

Context = grpc.aio.ServicerContext[pb.PredictStreamRequest, pb.PredictStreamResponse]


class Multiplexer:
    """Serves one stream from its opening to its end."""

    def __init__(self, inference: Inference, preferences: Preferences, context: Context, max_items: int) -> None:
        self._inference = inference
        self._preferences = preferences
        self._context = context
        self._max_items = max_items
        self._clock = SendClock()
        self._tasks: dict[str, asyncio.Task[pb.PredictStreamResponse]] = {}
        self._answers: deque[pb.PredictStreamResponse] = deque()
        self._wake_writer = asyncio.Event()
        self._room = asyncio.Event()
        self._reading = True

    async def run(self) -> None:
        """Reads until the client half-closes or the server drains, then finishes what is under way.

        A broken stream cancels all that is under way. A drained one ends with UNAVAILABLE, which sends its client to
        open another, elsewhere.
        """
        reader = asyncio.create_task(self._read(), name="PredictStream reader")
        writer = asyncio.create_task(self._write(), name="PredictStream writer")
        draining = asyncio.create_task(self._inference.draining.wait())
        try:
            await asyncio.wait([reader, writer, draining], return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
            if writer.done():
                writer.result()
            if self._tasks:
                await asyncio.wait(self._tasks.values())
            self._reading = False
            self._wake_writer.set()
            await writer
            if not reader.done():
                await abort(self._context, Draining("the server is stopping", retry_after=1.0))
        finally:
            for task in [*self._tasks.values(), reader, writer, draining]:
                task.cancel()
            await asyncio.gather(reader, writer, draining, return_exceptions=True)

    async def _read(self) -> None:
        while isinstance(item := await self._context.read(), pb.PredictStreamRequest | Malformed):  # else grpc.aio.EOF
            self._take(item)
            while len(self._tasks) + len(self._answers) >= self._max_items:
                self._room.clear()
                await self._room.wait()

    async def _write(self) -> None:
        """Writes answers in the order they are ready; gRPC allows one write at a time."""
        while self._reading or self._answers:
            if not self._answers:
                self._wake_writer.clear()
                await self._wake_writer.wait()
                continue
            await self._context.write(self._answers.popleft())
            self._room.set()

    def _take(self, item: pb.PredictStreamRequest | Malformed) -> None:
        if isinstance(item, Malformed):
            self._fail("", refusal("turnout.v1.PredictStreamRequest"))
            return
        kind = item.WhichOneof("item")
        if kind == "request":
            self._begin(item)
        elif kind == "cancel":
            if (task := self._tasks.get(item.cancel)) is not None:
                task.cancel()
        else:
            self._fail("", InvalidRequest.at("item", "expected a request or a cancel"))

    def _begin(self, item: pb.PredictStreamRequest) -> pb.PredictStreamResponse | None:
        """Answers at once where that is possible, and returns the answer; else starts a task that will."""
        message, timeout_ms = item.request, item.timeout_ms
        remaining = self._context.time_remaining()
        # Its time runs since it was sent, and not since there was room for it here.
        waited = self._clock.waited(item.sent_ms / 1e3, time.monotonic()) if item.HasField("sent_ms") else 0.0
        if timeout_ms:
            left = timeout_ms / 1e3 - waited
            remaining = left if remaining is None else min(left, remaining)
        call = codec.envelope(message, remaining)
        try:
            if not message.request_id:
                raise InvalidRequest.at("request.request_id", "expected an id; answers are told apart by it")
            if call.request_id in self._tasks:
                raise InvalidRequest.at("request.request_id", f"{call.request_id!r} is under way on this stream")
            codec.fill(call, message)
            self._preferences.apply(call)
        except InvalidRequest as error:
            self._inference.refuse(call, error)
            return self._fail(message.request_id, error)
        try:
            result = self._inference.infer_now(call)
        except TurnoutError as error:
            return self._fail(call.request_id, error)
        if result is not None:
            return self._answer(_answered(call, result))
        task = asyncio.create_task(self._infer(call))
        self._tasks[call.request_id] = task
        task.add_done_callback(lambda _: self._done(call.request_id))
        return None

    async def _infer(self, call: InferenceRequest) -> pb.PredictStreamResponse:
        try:
            return self._answer(_answered(call, await self._inference.infer(call)))
        except TurnoutError as error:
            return self._fail(call.request_id, error)
        except Exception as error:  # noqa: BLE001 - an item's trouble is its own answer, never the stream's end
            return self._fail(call.request_id, ModelFailure(f"the request failed ({type(error).__name__})"))

    def _done(self, request_id: str) -> None:
        self._tasks.pop(request_id, None)
        self._room.set()

    def _fail(self, request_id: str, error: TurnoutError) -> pb.PredictStreamResponse:
        return self._answer(pb.PredictStreamResponse(request_id=request_id, error=to_status(error, request_id)))

    def _answer(self, response: pb.PredictStreamResponse) -> pb.PredictStreamResponse:
        self._answers.append(response)
        self._wake_writer.set()
        return response


class TracedMultiplexer(Multiplexer):
    """Serves one stream, and traces its requests."""

    def __init__(
        self,
        inference: Inference,
        preferences: Preferences,
        context: Context,
        max_items: int,
        tracer: Tracer,
        parent: SpanContext | None,
    ) -> None:
        super().__init__(inference, preferences, context, max_items)
        self._tracer = tracer
        self._parent = parent

    def _begin(self, item: pb.PredictStreamRequest) -> pb.PredictStreamResponse | None:
        parent = parse(item.traceparent, item.tracestate) if item.traceparent else self._parent
        trace = self._tracer.begin(OPERATION, parent)
        if trace is None:
            return super()._begin(item)
        token = current.set(trace)
        try:
            response = super()._begin(item)
        finally:
            current.reset(token)
        if response is not None:
            _end(trace, response)
        return response

    async def _infer(self, call: InferenceRequest) -> pb.PredictStreamResponse:
        trace = current.get()
        if trace is None:
            return await super()._infer(call)
        with cancelled_with(trace):
            response = await super()._infer(call)
        _end(trace, response)
        return response


def _answered(call: InferenceRequest, result: InferenceResult) -> pb.PredictStreamResponse:
    return pb.PredictStreamResponse(request_id=call.request_id, response=codec.response(call, result))


def _end(trace: Trace, response: pb.PredictStreamResponse) -> None:
    """Ends a request's trace as its answer tells."""
    if response.HasField("error"):
        end(trace, NAMES.get(response.error.code, "UNKNOWN"), response.error.message)
    else:
        end(trace)
