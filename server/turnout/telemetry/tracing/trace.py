"""Records the timings of one request and the version that answered. Spans are derived from it later.

Recording a point in time costs a few hundred nanoseconds, and only traced requests do so.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from turnout.errors import kind_of
from turnout.telemetry.metrics.versions import RoleRecorder
from turnout.telemetry.tracing.context import SpanContext

if TYPE_CHECKING:
    from turnout.telemetry.tracing.tracer import Tracer


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """The method or route of a request.

    Attributes:
        name: Name of the request's span: `turnout.v1.PredictionService/Predict`, `POST /predict/{model}`.
        attributes: Attributes of the spans of all its requests.
        status_key: Name of the attribute with the request's status.
    """

    name: str
    attributes: tuple[tuple[str, str], ...]
    status_key: str

    @classmethod
    def rpc(cls, service: str, method: str) -> "Operation":
        """Returns the operation of a gRPC method. `service` is the full name of the service."""
        name = f"{service}/{method}"
        return cls(name, (("rpc.system.name", "grpc"), ("rpc.method", name)), "rpc.response.status_code")

    @classmethod
    def http(cls, method: str, route: str) -> "Operation":
        """Returns the operation of an HTTP route."""
        attributes = (("http.request.method", method), ("http.route", route), ("url.scheme", "http"))
        return cls(f"{method} {route}", attributes, "http.response.status_code")


class Requested(Protocol):
    """The fields of a request that a trace and the access log read."""

    @property
    def model(self) -> str:
        """Name of the model, as sent by the client."""

    @property
    def selector(self) -> str:
        """Version selector, as sent by the client."""

    @property
    def request_id(self) -> str:
        """Id of the request in the logs."""

    @property
    def arrived(self) -> float:
        """`time.monotonic()` when the request arrived."""


class Trace:
    """The record of one request. Times are in `time.monotonic` seconds; 0.0 if the request did not get that far.

    It does not reference tensors, routes or handles, since it may outlive them in a queue.

    Attributes:
        sampled: Whether spans are made of the request. If not, its ids are only used in logs.
        trace_id, span_id: Ids of the request's span or, if it is not sampled, of the caller's.
        operation: The method or route.
        sink: Receives the record when the request has ended.
        parent: The caller's span; None if there is none or the request is not sampled.
        details: Attributes of this request only.
        model, selector, request_id: Values that the client sent. Once the request is routed, `model` is the model's
            exact name.
        begun: When the request arrived.
        routing, routed: When the request was decoded, and when a version was chosen.
        started: When the run started.
        queue_seconds, compute_seconds: Times in the queue and of the run, as in the answer.
        answered: When the answer was ready but not yet encoded.
        finished: When the answer was encoded, or the request failed.
        version, role, digest, epoch: The version that was chosen, its role and digest, and the policy's epoch.
        batch_rows, batch_requests: Number of rows and requests in the batch. `batch_rows` is None if there was no run.
        code: Name of the status code if the request failed; "" if it did not.
        error: Class of the error.
        status: Status in the protocol.
        fault: Whether the server is at fault for the status.
        message: Error message that is sent to the caller.
        recorder: Recorder that counted the request; None if it reached no version.
        took: Counted seconds from arrival to answer.
    """

    details: tuple[tuple[str, str], ...] = ()
    model: str = ""
    selector: str = ""
    request_id: str = ""
    routing: float = 0.0
    routed: float = 0.0
    started: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    answered: float = 0.0
    finished: float = 0.0
    version: str = ""
    role: str = ""
    digest: str = ""
    epoch: int = 0
    batch_rows: int | None = None
    batch_requests: int = 0
    code: str = ""
    error: str = ""
    status: str | int = ""
    fault: bool = False
    message: str = ""
    recorder: RoleRecorder | None = None
    took: float = 0.0

    def __init__(
        self,
        sampled: bool,
        trace_id: bytes,
        span_id: bytes,
        operation: Operation,
        sink: "Tracer",
        parent: SpanContext | None = None,
    ) -> None:
        """Starts the record now. Times that are not recorded yet are class attributes, which cost nothing to set up."""
        self.sampled = sampled
        self.trace_id = trace_id
        self.span_id = span_id
        self.operation = operation
        self.sink = sink
        self.parent = parent
        self.begun = time.monotonic()

    def note_request(self, request: Requested) -> None:
        """Records the request's fields, once it is decoded as far as possible."""
        self.sampled = self.sampled and self.sink.keeps(self, request.model)
        if self.sampled:
            self.model, self.selector, self.request_id = request.model, request.selector, request.request_id
            self.begun = request.arrived

    def note_answer(self, route: Any, answer: Any, now: float, took: float) -> None:
        """Records the version that answered and the timings of its run. `took` seconds were counted since arrival."""
        if not self.sampled:
            return
        self._note_route(route)
        self.answered = now
        self.started = answer.started
        self.queue_seconds, self.compute_seconds = answer.queue_seconds, answer.compute_seconds
        self.batch_rows, self.batch_requests = answer.batch_rows, answer.batch_requests
        self.recorder, self.took = route.recorder, took

    def note_failure(self, route: Any, error: BaseException, code: str, took: float) -> None:
        """Records how the request failed, with its status code; `route` is None if it failed before it had one."""
        self.code, self.error, self.message = code, kind_of(error), str(error)
        if self.sampled and route is not None:
            self._note_route(route)
            self.recorder, self.took = route.recorder, took

    def end(self, status: str | int, *, fault: bool, message: str = "") -> None:
        """Ends the record and passes it to the sink. Calling it again does nothing.

        The status is the name of a gRPC code, or an HTTP status. A `fault` is the server's rather than the caller's;
        the message is the one that is sent to the caller.
        """
        if not self.sampled or self.finished:
            return
        self.finished = time.monotonic()
        self.status, self.fault = status, fault
        self.message = message or self.message
        self.sink.ended(self)

    def exemplify(self) -> None:
        """Stores the counted times of the request as exemplars of their buckets."""
        if self.recorder is None:
            return
        if self.batch_rows is None:
            self.recorder.remember(self.trace_id.hex(), self.took)
        else:
            self.recorder.remember(self.trace_id.hex(), self.took, self.queue_seconds, self.compute_seconds)

    def _note_route(self, route: Any) -> None:
        entry = route.entry
        self.model, self.version, self.digest = entry.model, entry.version_text, entry.digest
        self.role, self.epoch = str(route.role), route.epoch


@dataclass(frozen=True, slots=True)
class ShadowCopy:
    """A copy of a request that a shadow ran.

    Attributes:
        trace: The record of the live request.
        version, baseline: The shadow, and the version that it is compared with.
        epoch: Epoch of the policy with the shadow.
        outcome: Outcome of the comparison, one word.
        begun, ended: Times of the live answer and of the end of the comparison.
        error: Class of the run's error; "" for none.
        message: Message of the run's error; "" for none.
    """

    trace: Trace
    model: str
    version: str
    baseline: str
    epoch: int
    outcome: str
    begun: float
    ended: float
    error: str = ""
    message: str = ""
