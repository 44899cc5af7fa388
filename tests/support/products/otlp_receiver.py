"""A collector for tests: receives OTLP over HTTP or gRPC, and decodes it to spans."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

LIMIT_SECONDS = 100.0


def _read(attributes: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


@dataclass(frozen=True)
class Span:
    """A span as received."""

    message: Message
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return self.message.name

    @property
    def trace_id(self) -> str:
        return self.message.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.message.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.message.parent_span_id.hex()

    @property
    def is_server(self) -> bool:
        return self.message.kind == Message.SPAN_KIND_SERVER

    @property
    def is_error(self) -> bool:
        return self.message.status.code == 2

    @property
    def attributes(self) -> dict[str, Any]:
        return _read(self.message.attributes)


@dataclass
class Collector:
    """What was received, and how the next exports are answered.

    Attributes:
        endpoint: Address of the collector.
        exports: Accepted exports, in order.
        headers: Headers of each export, including refused ones.
        answers: HTTP statuses with headers, or gRPC codes, for the next exports. After these, all are accepted.
        response: Body of the response to an accepted export.
    """

    endpoint: str = ""
    exports: list[ExportTraceServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    response: ExportTraceServiceResponse = field(default_factory=ExportTraceServiceResponse)

    @property
    def spans(self) -> list[Span]:
        return [
            Span(
                span, {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in r.resource.attributes}
            )
            for export in list(self.exports)
            for r in export.resource_spans
            for scope in r.scope_spans
            for span in scope.spans
        ]

    @property
    def server_spans(self) -> list[Span]:
        return [span for span in self.spans if span.is_server]

    def children(self, parent: Span) -> list[Span]:
        return [span for span in self.spans if span.parent_id == parent.span_id]

    async def wait(self, holds: Callable[[Sequence[Span]], bool]) -> list[Span]:
        """Returns the spans once `holds` is true for them; fails if that takes too long."""
        end = time.monotonic() + LIMIT_SECONDS
        while not holds(spans := self.spans):
            assert time.monotonic() < end, [(span.name, span.attributes) for span in spans]
            await asyncio.sleep(0.02)
        return spans

    async def requests(self, count: int) -> list[Span]:
        """Returns the spans of requests once there are `count` of them; there must not be more."""
        await self.wait(lambda spans: sum(span.is_server for span in spans) >= count)
        found = self.server_spans
        assert len(found) == count, [span.attributes for span in found]
        return found


@contextmanager
def http_collector() -> Iterator[Collector]:
    """Receives OTLP/HTTP while the context is entered."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            collector.paths.append(self.path)
            status, headers = collector.answers.pop(0) if collector.answers else (200, {})
            if status == 200:
                assert self.headers["Content-Type"] == "application/x-protobuf"
                collector.exports.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if status == 200:
                self.wfile.write(collector.response.SerializeToString())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    collector.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def grpc_collector() -> Iterator[Collector]:
    """Receives OTLP/gRPC while the context is entered."""
    collector = Collector()

    class Servicer(TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> Any:
            collector.headers.append(dict(context.invocation_metadata()))
            if collector.answers:
                context.abort(collector.answers.pop(0), "so it is")
            collector.exports.append(request)
            return collector.response

    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    add_TraceServiceServicer_to_server(Servicer(), server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()
