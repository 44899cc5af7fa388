"""Sends spans to a collector with OTLP over HTTP or gRPC, and interprets its responses.

https://opentelemetry.io/docs/specs/otlp/
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from turnout.config import Tracing
from turnout.outbound import Unanswered, ask, uses_proxies
from turnout.threads import Threads

_HTTP_PATH = "/v1/traces"
_GRPC_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

_MAX_ANSWER = 64 * 1024
"""Maximum number of bytes to read of a response."""

_HTTP_RETRIED = {429, 502, 503, 504}
_GRPC_RETRIED = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}


class ExportOutcome(Enum):
    """The outcome of an export."""

    TAKEN = "taken"
    RETRY = "retry"
    """The export can be retried later."""
    REFUSED = "refused"
    """The export must not be retried."""


@dataclass(frozen=True, slots=True)
class CollectorResponse:
    """A collector's response to an export.

    Attributes:
        reason: Short reason for the outcome; never text from a header.
        rejected: Number of spans that the collector rejected in an export that it accepted.
        pause: Seconds after which the collector asks to retry; None if it did not say.
    """

    outcome: ExportOutcome
    reason: str = ""
    rejected: int = 0
    pause: float | None = None


class HttpTransport:
    """OTLP/HTTP with protobuf bodies. Uses the proxies in the environment variables."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], timeout: float) -> None:
        base = endpoint.rstrip("/")
        self._url = base if base.endswith(_HTTP_PATH) else base + _HTTP_PATH
        self._headers = {**headers, "Content-Type": "application/x-protobuf"}
        self._timeout = timeout
        self._threads = Threads("trace export")

    async def send(self, body: bytes) -> CollectorResponse:
        """Sends an ExportTraceServiceRequest in a thread, which releases the GIL while it waits. Never raises."""
        return await self._threads.run(self._post, body)

    async def close(self) -> None:
        """Stops the thread. No connection stays open between exports."""
        self._threads.shutdown()

    def _post(self, body: bytes) -> CollectorResponse:
        try:
            answer = ask(
                "POST", self._url, headers=self._headers, content=body, timeout_s=self._timeout, most_bytes=_MAX_ANSWER
            )
        except Unanswered as error:
            return CollectorResponse(ExportOutcome.RETRY, error.kind)
        if 200 <= answer.status < 300:
            return _taken(answer.body)
        outcome = ExportOutcome.RETRY if answer.status in _HTTP_RETRIED else ExportOutcome.REFUSED
        return CollectorResponse(outcome, f"HTTP {answer.status}", pause=_seconds(answer.headers.get("retry-after")))


class GrpcTransport:
    """OTLP/gRPC, with TLS if the endpoint's scheme is `https`."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], timeout: float) -> None:
        scheme, _, target = endpoint.rstrip("/").partition("://")
        if scheme == "https":
            self._channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials())
        else:
            options = () if uses_proxies(endpoint) else (("grpc.enable_http_proxy", 0),)
            self._channel = grpc.aio.insecure_channel(target, options=options)
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_GRPC_METHOD)
        self._metadata = tuple(headers.items())
        self._timeout = timeout

    async def send(self, body: bytes) -> CollectorResponse:
        """Sends an ExportTraceServiceRequest. Never raises."""
        try:
            return _taken(await self._call(body, timeout=self._timeout, metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            pause = _retry_delay(error)
            exhausted = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and pause is not None
            outcome = ExportOutcome.RETRY if exhausted or error.code() in _GRPC_RETRIED else ExportOutcome.REFUSED
            return CollectorResponse(outcome, error.code().name, pause=pause)

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


ExportTransport = HttpTransport | GrpcTransport


def make_transport(settings: Tracing) -> ExportTransport:
    """Returns the transport to the collector."""
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    kind = GrpcTransport if settings.protocol == "grpc" else HttpTransport
    return kind(settings.endpoint, headers, settings.timeout_s)


def _taken(answer: bytes) -> CollectorResponse:
    """Parses the response to an export that the collector accepted."""
    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:  # some collectors respond with plain text
        return CollectorResponse(ExportOutcome.TAKEN)
    return CollectorResponse(ExportOutcome.TAKEN, partial.error_message[:256], rejected=partial.rejected_spans)


def _seconds(header: str | None) -> float | None:
    """Parses a Retry-After header in seconds. OTLP does not use its other form, a date."""
    return float(header) if header is not None and header.isdecimal() else None


def _retry_delay(error: grpc.aio.AioRpcError) -> float | None:
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return None
    for detail in status.details if status is not None else ():
        info = RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.ToTimedelta().total_seconds())
    return None
