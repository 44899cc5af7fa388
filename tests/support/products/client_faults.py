"""A real gRPC server with answers defined by a test, to confront clients with every fault that a server can have.

It implements `turnout.v1` and `grpc.health.v1`, without models: `predict` and `stream` are plain functions that a test
replaces. It runs in threads, so that both kinds of clients can be used from one event loop.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_status import rpc_status

from turnout_client import AsyncClient, Client
from turnout_proto.v1 import catalog_pb2, prediction_pb2_grpc
from turnout_proto.v1.catalog_pb2_grpc import CatalogServiceServicer, add_CatalogServiceServicer_to_server
from turnout_proto.v1.prediction_pb2 import (
    ROLE_PINNED,
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
)

BOUND = 60.0  # seconds after which a test fails if it is still waiting

OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    # Only data that is read is taken from the network, so that a test can block a client's writes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
]

Predict = Callable[[PredictRequest], PredictResponse]
Stream = Callable[[Iterator[PredictStreamRequest], grpc.ServicerContext], Iterator[PredictStreamResponse]]


class Fault(Exception):
    """Raised by a test's `predict` to end the call, or the item of a stream, with a status."""

    def __init__(self, code: grpc.StatusCode, message: str = "so it is", *details: Message) -> None:
        super().__init__(message)
        self.status = Status(code=code.value[0], message=message)
        for detail in details:
            self.status.details.add().Pack(detail)


def retry_info(seconds: float) -> RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return RetryInfo(retry_delay=delay)


def bad_request(**violations: str) -> BadRequest:
    faults = [BadRequest.FieldViolation(field=field, description=text) for field, text in violations.items()]
    return BadRequest(field_violations=faults)


def request_info(request_id: str) -> RequestInfo:
    return RequestInfo(request_id=request_id)


def echo(request: PredictRequest) -> PredictResponse:
    """Answers with the inputs as outputs."""
    response = PredictResponse(request_id=request.request_id or "made-up", model=request.model)
    response.route.version = request.version or "1.0.0"
    response.route.role = ROLE_PINNED
    response.outputs.extend(request.inputs)
    return response


def answer_to(item: PredictStreamRequest, predict: Predict = echo) -> PredictStreamResponse:
    """Answers one item of a stream with the result of `predict`."""
    try:
        return PredictStreamResponse(request_id=item.request.request_id, response=predict(item.request))
    except Fault as fault:
        return PredictStreamResponse(request_id=item.request.request_id, error=fault.status)


class FaultServer:
    """The server.

    Attributes:
        predict: Answers Predict, and each item of the default stream; may raise Fault.
        stream: Answers PredictStream instead of the default; None for the default.
        seen: All requests received, by either method.
        items: All items received by the default stream, including cancellations.
        metadata: Metadata of the last call.
        streams: Number of streams that were opened.
        health: Implementation of grpc.health.v1.
        catalog: Models in the catalog.
    """

    def __init__(
        self, port: int = 0, host: str = "127.0.0.1", *, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.predict: Predict = echo
        self.stream: Stream | None = None
        self.seen: list[PredictRequest] = []
        self.items: list[PredictStreamRequest] = []
        self.metadata: dict[str, Any] = {}
        self.streams = 0
        # The non-blocking mode holds a lock while it sends, for which the end of a watch waits: sometimes it deadlocks.
        self.health = HealthServicer(experimental_non_blocking=False)
        self.catalog: list[catalog_pb2.Model] = []
        self._threads = ThreadPoolExecutor(max_workers=32)
        self._server = grpc.server(self._threads, options=OPTIONS)
        prediction_pb2_grpc.add_PredictionServiceServicer_to_server(_Prediction(self), self._server)
        add_CatalogServiceServicer_to_server(_Catalog(self), self._server)
        add_HealthServicer_to_server(self.health, self._server)
        self.host = host
        if credentials is None:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        else:
            self.port = self._server.add_secure_port(f"{host}:{port}", credentials)
        self._server.start()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def kill(self) -> None:
        """Ends all calls and frees the port at once, like a process that is killed."""
        self._server.stop(None)

    def stop(self) -> None:
        """Ends all calls at once and waits until all threads have ended."""
        self._server.stop(None).wait(BOUND)
        self._threads.shutdown()


class _Prediction(prediction_pb2_grpc.PredictionServiceServicer):
    def __init__(self, server: FaultServer) -> None:
        self._server = server

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        self._note(request, context)
        try:
            return self._server.predict(request)
        except Fault as fault:
            context.abort_with_status(rpc_status.to_status(fault.status))
            raise

    def PredictStream(
        self, items: Iterator[PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[PredictStreamResponse]:
        self._server.streams += 1
        try:
            if self._server.stream is not None:
                yield from self._server.stream(items, context)
                return
            for item in items:
                self._server.items.append(item)
                if item.HasField("request"):
                    self._note(item.request, context)
                    yield answer_to(item, self._server.predict)
        except Fault as fault:
            context.abort_with_status(rpc_status.to_status(fault.status))

    def _note(self, request: PredictRequest, context: grpc.ServicerContext) -> None:
        self._server.seen.append(request)
        self._server.metadata = dict(context.invocation_metadata())


class _Catalog(CatalogServiceServicer):
    def __init__(self, server: FaultServer) -> None:
        self._server = server

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> catalog_pb2.ListModelsResponse:
        return catalog_pb2.ListModelsResponse(models=self._server.catalog)

    def GetModel(self, request: Any, context: grpc.ServicerContext) -> catalog_pb2.GetModelResponse:
        return catalog_pb2.GetModelResponse(model=self._named(request.model, context))

    def GetVersion(self, request: Any, context: grpc.ServicerContext) -> catalog_pb2.GetVersionResponse:
        versions = self._named(request.model, context).versions
        wanted = request.version or versions[0].version
        return catalog_pb2.GetVersionResponse(version=next(v for v in versions if v.version == wanted))

    def _named(self, name: str, context: grpc.ServicerContext) -> catalog_pb2.Model:
        for model in self._server.catalog:
            if model.name == name:
                return model
        context.abort(grpc.StatusCode.NOT_FOUND, f"no model is named {name!r}")
        raise AssertionError("abort raises")


@contextmanager
def fault_server(*args: Any, **options: Any) -> Iterator[FaultServer]:
    """Runs a server, with the arguments of `FaultServer`, for the duration of a block."""
    server = FaultServer(*args, **options)
    try:
        yield server
    finally:
        server.stop()


class AnyClient:
    """A client of either kind with the interface of the asyncio client, so that one test covers both."""

    def __init__(self, kind: type[AsyncClient] | type[Client], target: str, **options: Any) -> None:
        self.client = kind(target, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        if inspect.iscoroutinefunction(method):
            return method
        return lambda *args, **named: asyncio.to_thread(method, *args, **named)

    async def __aenter__(self) -> "AnyClient":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if isinstance(self.client, AsyncClient):
            await self.client.aclose()
        else:
            await asyncio.to_thread(self.client.close)


async def within_bound(condition: Callable[[], bool]) -> None:
    """Waits until `condition` returns True."""
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.005)
