"""A fake Turnout server for testing code that calls one: real gRPC on a free port, with answers that you set.

    from turnout_client.testing import FakeServer

    def test_a_picture_is_labelled() -> None:
        with FakeServer() as server:
            server.answer("classifier", {"label": ["cat"]}, version="2.1.0")
            assert my_service(server.target).label(picture) == "cat"
            assert server.received[0].version == "^2"

It needs no model and no ONNX Runtime, and does not validate requests. To test against a model's real signature, routing
and errors, serve the model with `turnout.testing`, from the distribution `turnout`.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server
from numpy.typing import ArrayLike

from turnout_client.errors import InvalidArgument, NotFound, TurnoutClientError, Unknown, Violation
from turnout_client.model import Role
from turnout_client.wire import as_array
from turnout_proto.tensors import Array, TensorError, append, decode
from turnout_proto.v1 import prediction_pb2
from turnout_proto.v1.prediction_pb2 import (
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
)
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceServicer, add_PredictionServiceServicer_to_server

_DETAILS = "grpc-status-details-bin"
_DIGEST = "sha256:" + "0" * 64
_ROLES = {
    Role.PINNED: prediction_pb2.ROLE_PINNED,
    Role.BASELINE: prediction_pb2.ROLE_BASELINE,
    Role.CANARY: prediction_pb2.ROLE_CANARY,
}


@dataclass(frozen=True, slots=True)
class Received:
    """A prediction request that the fake server received.

    Attributes:
        model: Name of the model.
        version: Version selector; "" if the request has none.
        inputs: Input arrays by name.
        outputs: Names of the requested outputs; () for all.
        request_id: Request id that the client sent.
        routing_key: Routing key that the client sent.
        metadata: Metadata of the call, with keys in lower case. It is not part of the repr, as it may contain a token.
        streamed: Whether the request arrived on a `PredictStream`.
    """

    model: str
    version: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    request_id: str
    routing_key: str
    metadata: Sequence[tuple[str, str | bytes]] = field(repr=False)
    streamed: bool


Outputs: TypeAlias = Mapping[str, ArrayLike]

Answer: TypeAlias = Callable[[Received], Outputs]
"""A function that returns the outputs of a prediction by name, or raises the error to send to the client."""


class FakeServer:
    """A fake server that returns preset answers, on a free port of 127.0.0.1. Use it as a context manager.

    Requests for a model without an answer get NOT_FOUND. Answers can be changed at any time. Requests run in parallel,
    on a stream too. If an answer is a function that raises any exception but `TurnoutClientError`, its request ends
    with UNKNOWN.
    """

    def __init__(self) -> None:
        """Creates the server. It starts to listen when its context is entered."""
        self._changed = threading.Condition()
        self._answers: dict[str, dict[str, tuple[Answer, Role]]] = {}
        self._received: list[Received] = []
        self._closed = False
        self._threads = ThreadPoolExecutor(16, "fake-turnout")
        self._items = ThreadPoolExecutor(16, "fake-turnout-item")  # runs the requests on streams
        self._server = grpc.server(self._threads, options=[("grpc.so_reuseport", 0)])
        add_HealthServicer_to_server(_Health(self), self._server)
        add_PredictionServiceServicer_to_server(_Predictions(self), self._server)
        self._port = 0

    def __enter__(self) -> Self:
        if self._port:
            raise RuntimeError("a FakeServer serves once; create another one")
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.stop(0).wait()
        self._threads.shutdown()
        self._items.shutdown()

    @property
    def target(self) -> str:
        """The target to pass to a client."""
        return f"127.0.0.1:{self._port}"

    @property
    def received(self) -> Sequence[Received]:
        """The prediction requests received so far, in order of arrival."""
        with self._changed:
            return tuple(self._received)

    def answer(
        self,
        model: str,
        outputs: Outputs | Answer | TurnoutClientError,
        *,
        version: str = "1.0.0",
        role: Role = Role.BASELINE,
    ) -> None:
        """Sets the answer to a model's predictions.

        A request for the exact number of a version that has an answer gets that version, with role `pinned`. Every
        other request gets the version whose answer was set last.

        Args:
            model: Name of the model.
            outputs: Outputs by name, or a function that returns them or raises, or the error that every request gets.
            version: Version that the answer reports.
            role: Role that the answer reports: baseline, canary or pinned.
        """

        def fixed(_: Received) -> Outputs:
            if isinstance(outputs, TurnoutClientError):
                raise outputs
            assert not callable(outputs)
            return outputs

        answer = outputs if callable(outputs) else fixed
        with self._changed:
            versions = self._answers.setdefault(model, {})
            versions.pop(version, None)
            versions[version] = answer, role
            self._changed.notify_all()

    def _receive(
        self, request: PredictRequest, metadata: Sequence[tuple[str, str | bytes]], *, streamed: bool
    ) -> Received:
        """Records a request. Raises InvalidArgument if an input is malformed."""
        try:
            inputs = {tensor.name: decode(tensor) for tensor in request.inputs}
        except TensorError as error:
            raise InvalidArgument(str(error), violations=[Violation("inputs", str(error))]) from error
        received = Received(
            request.model, request.version, inputs, tuple(request.outputs), request.request_id, request.routing_key,
            metadata, streamed,
        )  # fmt: skip
        with self._changed:
            self._received.append(received)
        return received

    def _predict(self, request: PredictRequest, received: Received) -> PredictResponse:
        """Returns the preset answer to `request`. Raises TurnoutClientError if the answer is an error."""
        try:
            return self._answer(request, received)
        except TurnoutClientError:
            raise
        except Exception as error:
            raise Unknown(f"the answer to {request.model!r} raised {type(error).__name__}: {error}") from error

    def _answer(self, request: PredictRequest, received: Received) -> PredictResponse:
        with self._changed:
            versions = dict(self._answers.get(request.model, {}))
        if not versions:
            raise NotFound(f"no model is named {request.model!r}: tell this server of it with answer()")
        version = request.version if request.version in versions else list(versions)[-1]
        answer, role = versions[version]
        outputs = answer(received)
        response = PredictResponse(request_id=request.request_id or f"fake-{len(self._received)}", model=request.model)
        response.route.version, response.route.digest = version, _DIGEST
        how = Role.PINNED if request.version == version else role
        response.route.role = _ROLES[how]
        for name in request.outputs or outputs:
            if name not in outputs:
                what = f"expected one of the outputs {', '.join(outputs)}, got {name!r}"
                raise InvalidArgument(what, violations=[Violation("outputs", what)])
            append(response.outputs, name, as_array(outputs[name]))
        return response


class _Health(HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """The health service: a model is SERVING as soon as it has an answer; any other model is unknown."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:  # noqa: N802
        status = self._status(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"expected a model that this server was told of: {request.service}"
            )
        return HealthCheckResponse(status=status)

    def Watch(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[HealthCheckResponse]:  # noqa: N802
        server, sent = self._server, None
        context.add_callback(self._wake)
        while context.is_active() and not server._closed:
            with server._changed:
                while (status := self._status(request.service)) == sent and context.is_active() and not server._closed:
                    server._changed.wait(1.0)
            if status != sent:
                sent = status
                yield HealthCheckResponse(status=status)

    def _wake(self) -> None:
        with self._server._changed:
            self._server._changed.notify_all()

    def _status(self, service: str) -> "HealthCheckResponse.ServingStatus.ValueType":
        model = service.removeprefix("model:").partition("@")[0]
        known = not service or model in self._server._answers
        return HealthCheckResponse.SERVING if known else HealthCheckResponse.SERVICE_UNKNOWN


class _Predictions(PredictionServiceServicer):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:  # noqa: N802
        try:
            return self._server._predict(request, self._server._receive(request, _metadata(context), streamed=False))
        except TurnoutClientError as error:
            context.set_trailing_metadata(((_DETAILS, _status(error, request.request_id).SerializeToString()),))
            context.abort(error.code, error.message)

    def PredictStream(  # noqa: N802
        self, request_iterator: Iterator[PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[PredictStreamResponse]:
        server, metadata = self._server, _metadata(context)
        answers: SimpleQueue[PredictStreamResponse | None] = SimpleQueue()

        def answer(request: PredictRequest, received: Received) -> None:
            try:
                response = server._predict(request, received)
                answers.put(PredictStreamResponse(request_id=request.request_id, response=response))
            except TurnoutClientError as error:
                refuse(request, error)

        def refuse(request: PredictRequest, error: TurnoutClientError) -> None:
            answers.put(PredictStreamResponse(request_id=request.request_id, error=_status(error, request.request_id)))

        def read() -> None:
            pending: list[Future[None]] = []
            with contextlib.suppress(Exception):  # gRPC raises a bare Exception if the client cancels the call
                for item in request_iterator:
                    if item.WhichOneof("item") != "request":
                        continue
                    try:
                        received = server._receive(item.request, metadata, streamed=True)
                    except InvalidArgument as error:
                        refuse(item.request, error)
                    else:
                        pending.append(server._items.submit(answer, item.request, received))
            wait(pending)
            answers.put(None)

        threading.Thread(target=read, name="fake-turnout-stream", daemon=True).start()
        yield from iter(answers.get, None)


def _metadata(context: grpc.ServicerContext) -> Sequence[tuple[str, str | bytes]]:
    return tuple((key, value) for key, value in context.invocation_metadata())


def _status(error: TurnoutClientError, request_id: str) -> Status:
    details: list[Any] = [RequestInfo(request_id=request_id)] if request_id else []
    if error.violations:
        fields = (BadRequest.FieldViolation(field=one.field, description=one.description) for one in error.violations)
        details.append(BadRequest(field_violations=fields))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(min(error.retry_after, 1e9) * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    status = Status(code=error.code.value[0], message=error.message)
    for detail in details:
        status.details.add().Pack(detail)
    return status
