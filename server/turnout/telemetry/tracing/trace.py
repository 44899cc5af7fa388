"""Records one request as it goes: points in time, and which version answered. Spans are made from it later.

Each point costs a few hundred nanoseconds, and only traced requests record any.
"""

import time
from dataclasses import dataclass
from typing import Any, Protocol

from turnout.errors import kind_of
from turnout.telemetry.tracing.context import SpanContext


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """The method or route that was called.

    Attributes:
        name: Of the request's span: `turnout.v1.PredictionService/Predict`, `POST /predict/{model}`.
        attributes: Those of all of its spans.
        status_key: The attribute for its status.
    """

    name: str
    attributes: tuple[tuple[str, str], ...]
    status_key: str

    @classmethod
    def rpc(cls, service: str, method: str) -> "Operation":
        """Returns that of a gRPC method; `service` is its full name."""
        name = f"{service}/{method}"
        return cls(name, (("rpc.system.name", "grpc"), ("rpc.method", name)), "rpc.response.status_code")

    @classmethod
    def http(cls, method: str, route: str) -> "Operation":
        """Returns that of an HTTP route."""
        attributes = (("http.request.method", method), ("http.route", route), ("url.scheme", "http"))
        return cls(f"{method} {route}", attributes, "http.response.status_code")


class Requested(Protocol):
    """The fields of a request that a trace and the access log read."""

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
        """The request's id in logs."""
        ...

    @property
    def arrived(self) -> float:
        """`time.monotonic()` when it arrived."""
        ...


class ExemplarRecorder(Protocol):
    """Keeps exemplars of what it counted."""

    def remember(
        self, trace_id: str, duration: float, queue: float | None = None, compute: float | None = None
    ) -> None:
        """Keeps times, in seconds, as exemplars of their buckets."""
        ...


class Sink(Protocol):
    """Makes spans of requests and copies that ended."""

    def keeps(self, trace: "Trace", model: str) -> bool:
        """Tells whether spans are made of a request, now that its model is known."""
        ...

    def ended(self, trace: "Trace") -> None:
        """Receives a request that ended."""
        ...

    def copied(self, copy: "ShadowCopy") -> None:
        """Receives a copy of a request that a shadow ran."""
        ...


class Trace:
    """One request. Times are `time.monotonic()`; 0.0 if the request did not get that far.

    It holds no tensor, no route and no handle: it may wait longer than those should live.

    Attributes:
        sampled: Whether spans are made of it. If not, the ids are only for the logs.
        trace_id, span_id: Its own; if it is not sampled, the caller's.
        operation: What was called.
        sink: Makes spans of it.
        parent: The caller's span.
        details: Attributes that only this request has.
        model, selector, request_id: As the client wrote them; the model's own name once it was routed.
        begun: When it arrived.
        routing, routed: When it was decoded, and when it had a route.
        started: When its run started.
        queue_seconds, compute_seconds: As in the answer.
        answered: When the answer was ready, but not encoded yet.
        finished: When the answer was encoded, or the request failed.
        version, role, digest, epoch: Of the route.
        batch_rows, batch_requests: As in the answer; None if there is none.
        code: Name of the status code of its failure; "" if it did not fail.
        error: Class of the error.
        status: The status in the protocol.
        fault: Whether that is the server's fault.
        message: The error message that the caller gets.
        recorder: The recorder that counted it; None if no version did.
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
        """Starts a trace now. Points that are not recorded yet keep the defaults of the class, which costs nothing."""
        self.sampled = sampled
        self.trace_id = trace_id
        self.span_id = span_id
        self.operation = operation
        self.sink = sink
        self.parent = parent
        self.begun = time.monotonic()

    def note_request(self, request: Requested) -> None:
        """Records which request it is, once it has been decoded as far as possible."""
        self.sampled = self.sampled and self.sink.keeps(self, request.model)
        if self.sampled:
            self.model, self.selector, self.request_id = request.model, request.selector, request.request_id
            self.begun = request.arrived

    def note_answer(self, route: Any, answer: Any, now: float, took: float) -> None:
        """Records which version answered, and how. The types are those of `turnout.serving.data_plane.inference`.

        Args:
            route: Which version answered, and why.
            answer: How the answer came about.
            now: When the answer was ready.
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
        """Records how the request failed.

        Args:
            route: As in `note_answer`; None if it has none.
            error: The error.
            code: Name of its status code.
            took: As in `note_answer`.
        """
        self.code, self.error, self.message = code, kind_of(error), str(error)
        if self.sampled and route is not None:
            self._note_route(route)
            self.recorder, self.took = route.recorder, took

    def end(self, status: str | int, *, fault: bool, message: str = "") -> None:
        """Ends the request. Ending it again changes nothing.

        Args:
            status: The status in the protocol: a code's name, or an HTTP status.
            fault: Whether that is the server's fault, not the caller's.
            message: The error message that the caller gets.
        """
        if not self.sampled or self.finished:
            return
        self.finished = time.monotonic()
        self.status, self.fault = status, fault
        self.message = message or self.message
        self.sink.ended(self)

    def exemplify(self) -> None:
        """Keeps its counted times as exemplars of their buckets."""
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
        model, version, baseline: The shadow, and the version that it is compared with.
        epoch: Of the policy that asked for the copy.
        outcome: Its outcome, in a word.
        begun, ended: From the live answer to the end of the comparison.
        error: Class of the run's error; "" for none.
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
