"""One PredictStream: many requests under way, answered as they are ready, each by its own status.

    reader (the handler itself): read -> answer at once, or start a task      writer task: answers -> stream

Requests of quick versions are answered in the reader without a task of their own; that is what makes a stream cost half
of unary calls. Reading pauses while as many requests as allowed are unanswered, so a client that does not read its
answers stops itself and nobody else.
"""

import asyncio
import time
from collections import deque
from typing import TypeAlias

from turnout.errors import Draining, InvalidRequest, TurnoutError
from turnout.routing.preferences import Preferences
from turnout.rpc import codec
from turnout.rpc.errors import code_name, to_status
from turnout.rpc.guard import Guard
from turnout.rpc.send_clock import SendClock
from turnout.rpc.tracing import cancelled_with, end
from turnout.rpc.transport.port import Stream
from turnout.serving.inference import Inference, InferenceRequest, InferenceResult
from turnout.telemetry.tracing.context import SpanContext, parse
from turnout.telemetry.tracing.trace import Operation, Trace, current
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.v1 import prediction_pb2 as pb

OPERATION = Operation.rpc("turnout.v1.PredictionService", "PredictStream")

_SERVICE = "turnout.v1.PredictionService"

_SHOWN_ID = 128
"""Characters of a request's id that a refusal repeats: an id may be no longer."""

Ended: TypeAlias = "TurnoutError | bool"
"""How a request ended: with an error, or True for an answer; False for one that is under way."""


class StreamExchange(codec.PredictExchange):
    """One request of a stream and its answer."""

    def encode(self, call: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the answer, serialised."""
        answer = pb.PredictStreamResponse(request_id=call.request_id, response=codec.response(call, result))
        return answer.SerializeToString()


class Multiplexer:
    """Serves one stream from its opening to its end."""

    def __init__(
        self, inference: Inference, preferences: Preferences, stream: Stream, max_items: int, guard: Guard
    ) -> None:
        self._guard = guard
        self._reader = guard.reader(pb.PredictStreamRequest)
        self._inference = inference
        self._preferences = preferences
        self._stream = stream
        self._max_items = max_items
        self._clock = SendClock()
        self._tasks: dict[str, asyncio.Task[Ended]] = {}
        self._answers: deque[bytes] = deque()
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
                raise Draining("the server is stopping", retry_after=1.0)
        finally:
            for task in [*self._tasks.values(), reader, writer, draining]:
                task.cancel()
            await asyncio.gather(reader, writer, draining, return_exceptions=True)

    async def _read(self) -> None:
        while (data := await self._stream.read()) is not None:
            try:
                item, heavy = self._reader.parse_small(data), False
                if item is None:
                    item, heavy = await self._reader.read(data)
            except InvalidRequest as error:
                self._guard.note(_SERVICE, error)
                self._refuse(InferenceRequest("", "", {}), error)
            else:
                self._take(item, heavy=heavy)
            del data
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
            await self._stream.write(self._answers.popleft())
            self._room.set()

    def _take(self, item: pb.PredictStreamRequest, *, heavy: bool) -> None:
        kind = item.WhichOneof("item")
        if kind == "request":
            self._begin(item, heavy=heavy)
        elif kind == "cancel":
            if (task := self._tasks.get(item.cancel)) is not None:
                task.cancel()
        else:
            self._fail("", InvalidRequest.at("item", "expected a request or a cancel"))

    def _begin(self, item: pb.PredictStreamRequest, *, heavy: bool) -> Ended:
        """Answers at once where that is possible; else starts a task that will."""
        message, timeout_ms = item.request, item.timeout_ms
        now, deadline = time.monotonic(), self._stream.deadline
        # Its time runs since it was sent, and not since there was room for it here.
        waited = self._clock.waited(item.sent_ms / 1e3, now) if item.HasField("sent_ms") else 0.0
        if timeout_ms:
            ends = now + timeout_ms / 1e3 - waited
            deadline = ends if deadline is None else min(ends, deadline)
        call = codec.envelope(message, deadline, now)
        if not message.request_id:
            missing = InvalidRequest.at("request.request_id", "expected an id; answers are told apart by it")
            return self._refuse(call, missing, message.request_id)
        if call.request_id in self._tasks:
            repeated = f"{call.request_id[:_SHOWN_ID]!r} is under way on this stream"
            return self._refuse(call, InvalidRequest.at("request.request_id", repeated), message.request_id)
        exchange = StreamExchange(message, self._guard.limits, self._preferences.apply)
        result = None
        if not heavy:
            try:
                result = self._inference.begin(call, exchange)
                if result is not None and result.light:
                    return self._answer(self._guard.sized(self._inference.encoded(call, result, exchange)))
            except TurnoutError as error:
                return self._fail(call.request_id, error)
        task = asyncio.create_task(self._infer(call, result, exchange, heavy))
        self._tasks[call.request_id] = task
        task.add_done_callback(lambda _: self._done(call.request_id))
        return False

    async def _infer(
        self, call: InferenceRequest, result: InferenceResult | None, exchange: StreamExchange, heavy: bool
    ) -> Ended:
        try:
            if heavy:
                await self._inference.decode_in_thread(call, exchange)
            return self._answer(self._guard.sized(await self._inference.finish(call, result, exchange)))
        except TurnoutError as error:
            return self._fail(call.request_id, error)

    def _done(self, request_id: str) -> None:
        self._tasks.pop(request_id, None)
        self._room.set()

    def _refuse(self, call: InferenceRequest, error: InvalidRequest, request_id: str = "") -> Ended:
        self._inference.refuse(call, error)
        return self._fail(request_id, error)

    def _fail(self, request_id: str, error: TurnoutError) -> Ended:
        shown = request_id[:_SHOWN_ID]
        answer = pb.PredictStreamResponse(request_id=shown, error=to_status(error, shown))
        self._answer(answer.SerializeToString())
        return error

    def _answer(self, answer: bytes) -> Ended:
        self._answers.append(answer)
        self._wake_writer.set()
        return True


class TracedMultiplexer(Multiplexer):
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

    def _begin(self, item: pb.PredictStreamRequest, *, heavy: bool) -> Ended:
        parent = parse(item.traceparent, item.tracestate) if item.traceparent else self._parent
        trace = self._tracer.begin(OPERATION, parent)
        if trace is None:
            return super()._begin(item, heavy=heavy)
        token = current.set(trace)
        try:
            ended = super()._begin(item, heavy=heavy)
        finally:
            current.reset(token)
        _end(trace, ended)
        return ended

    async def _infer(
        self, call: InferenceRequest, result: InferenceResult | None, exchange: StreamExchange, heavy: bool
    ) -> Ended:
        trace = current.get()
        if trace is None:
            return await super()._infer(call, result, exchange, heavy)
        with cancelled_with(trace):
            ended = await super()._infer(call, result, exchange, heavy)
        _end(trace, ended)
        return ended


def _end(trace: Trace, ended: Ended) -> None:
    """Ends a request's trace, once the request has ended."""
    if isinstance(ended, TurnoutError):
        end(trace, code_name(ended), ended.message)
    elif ended:
        end(trace)
