"""What is noted of one request as it goes: points in time, and what it was answered by. Spans are made of it later.

Noting costs some hundred nanoseconds a point, and only requests that are traced note anything.
"""

import time
from dataclasses import dataclass
from typing import Any, Protocol

from turnout.errors import kind_of
from turnout.telemetry.tracing.context import SpanContext


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """What was called.

    Attributes:
        name: Of the request's span: `turnout.v1.PredictionService/Predict`, `POST /predict/{model}`.
        attributes: That all of its spans have.
        status_key: Attribute that its status goes by.
    """

    name: str
    attributes: tuple[tuple[str, str], ...]
    status_key: str

    @classmethod
    def rpc(cls, service: str, method: str) -> "Operation":
        """Makes that of a gRPC method; `service` is its full name."""
        name = f"{service}/{method}"
        return cls(name, (("rpc.system.name", "grpc"), ("rpc.method", name)), "rpc.response.status_code")

    @classmethod
    def http(cls, method: str, route: str) -> "Operation":
        """Makes that of an HTTP route."""
        attributes = (("http.request.method", method), ("http.route", route), ("url.scheme", "http"))
        return cls(f"{method} {route}", attributes, "http.response.status_code")


class Requested(Protocol):
    """What a trace and the access log read of a request."""

    @property
    def model(self) -> str:
        """The model's name, as the client wrote it."""
        ...

    @property
    def selector(self) -> str:
        """The version selector, as the client wrote it."""
        ...

    @property
    def request_id(self) -> str:
        """Names the request in logs."""
        ...

    @property
    def arrived(self) -> float:
        """`time.monotonic()` when it came."""
        ...


class ExemplarRecorder(Protocol):
    """Keeps examples of what it counted."""

    def remember(
        self, trace_id: str, duration: float, queue: float | None = None, compute: float | None = None
    ) -> None:
        """Keeps times, in seconds, as examples of their buckets."""
        ...


class Sink(Protocol):
    """Makes spans of what ended."""

    def keeps(self, trace: "Trace", model: str) -> bool:
        """Tells whether spans are made of a request, now that its model is known."""
        ...

    def ended(self, trace: "Trace") -> None:
        """Takes a request that ended."""
        ...

    def copied(self, copy: "ShadowCopy") -> None:
        """Takes a copy of a request that a shadow ran."""
        ...


class Trace:
    """One request. Times are `time.monotonic()`; 0.0 if the request did not come so far.

    It holds no tensor, no route and no handle: it may wait longer than those should live.

    Attributes:
        sampled: Whether spans are made of it. Where not, the ids are for the logs.
        trace_id, span_id: Its own; where it is not sampled, the caller's.
        operation: What was called.
        sink: Makes spans of it.
        parent: The caller's span.
        details: Attributes that only this request has.
        model, selector, request_id: As the client wrote them; the model's once it was routed.
        begun: When it came.
        routing, routed: When it had been decoded, and when it had a route.
        started: When its run started.
        queue_seconds, compute_seconds: As in the answer.
        answered: When the answer was there, still to be encoded.
        finished: When the answer was encoded, or the request had failed.
        version, role, digest, epoch: Of the route.
        batch_rows, batch_requests: As in the answer; None if there is none.
        code: Name of the status code that it failed with; "" if it did not.
        error: Class of the error.
        status: What the protocol answered.
        fault: Whether that is the server's fault.
        message: What a failed request's caller is told.
        recorder: Counted it; None if no version did.
        took: Seconds from its arrival to its answer, as they were counted.
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
    recorder: ExemplarRecorder | None = None
    took: float = 0.0

    def __init__(
        self,
        sampled: bool,
        trace_id: bytes,
        span_id: bytes,
        operation: Operation,
        sink: Sink,
        parent: SpanContext | None = None,
    ) -> None:
        """Begins one, now. What is not noted yet is what the class says, which costs nothing to say again."""
        self.sampled = sampled
        self.trace_id = trace_id
        self.span_id = span_id
        self.operation = operation
        self.sink = sink
        self.parent = parent
        self.begun = time.monotonic()

    def note_request(self, request: Requested) -> None:
        """Notes which request it is, once it has been decoded as far as it could be."""
        self.sampled = self.sampled and self.sink.keeps(self, request.model)
        if self.sampled:
            self.model, self.selector, self.request_id = request.model, request.selector, request.request_id
            self.begun = request.arrived

    def note_answer(self, route: Any, answer: Any, now: float, took: float) -> None:
        """Notes who answered and how; `route` and `answer` are those of `turnout.serving.data_plane.inference`.

        Args:
            route: Which version answered, and why.
            answer: How the answer came about.
            now: When it was there.
            took: Seconds since the request arrived, as they were counted.
        """
        if not self.sampled:
            return
        self._note_route(route)
        self.answered = now
        self.started = answer.started
        self.queue_seconds, self.compute_seconds = answer.queue_seconds, answer.compute_seconds
        self.batch_rows, self.batch_requests = answer.batch_rows, answer.batch_requests
        self.recorder, self.took = route.recorder, took

    def note_failure(self, route: Any, error: BaseException, code: str, took: float) -> None:
        """Notes how the request failed.

        Args:
            route: As in `note_answer`; None if there is none.
            error: Why.
            code: Name of the status code that it becomes.
            took: As in `note_answer`.
        """
        self.code, self.error, self.message = code, kind_of(error), str(error)
        if self.sampled and route is not None:
            self._note_route(route)
            self.recorder, self.took = route.recorder, took

    def end(self, status: str | int, *, fault: bool, message: str = "") -> None:
        """Ends the request. Ending it again changes nothing.

        Args:
            status: What the protocol answers: a code's name, or an HTTP status.
            fault: Whether that is the server's fault, not the caller's.
            message: What the caller is told.
        """
        if not self.sampled or self.finished:
            return
        self.finished = time.monotonic()
        self.status, self.fault = status, fault
        self.message = message or self.message
        self.sink.ended(self)

    def exemplify(self) -> None:
        """Has its times, which were counted, kept as examples of the buckets that they fell into."""
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
        model, version, baseline: Which shadow, and whose answers it is compared with.
        epoch: Of the policy that had the copy taken.
        outcome: What became of it, in a word.
        begun, ended: From the live answer to the end of the comparison.
        error: Class of the error that the run ended with; "" for none.
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
