"""The spans that a request becomes, by the timings that were noted. Pure.

SERVER  turnout.v1.PredictionService/Predict
          |-- decode    until the request is tensors
          |-- route     until it is known who answers
          |-- queue     from admission to the start of the run
          |-- compute   the run, of the whole batch
          |-- encode    until the answer is a message
shadow  in a trace of its own, linked with the request's span
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from turnout.telemetry.tracing.context import RANDOM, SAMPLED, SpanContext
from turnout.telemetry.tracing.trace import ShadowCopy, Trace

Value = str | int | float | bool
Attributes = tuple[tuple[str, Value], ...]

MAX_TEXT = 256
"""Characters of an attribute that a client wrote."""

MAX_MESSAGE = 1024


class Kind(IntEnum):
    """What a span is, by OTLP's numbers."""

    INTERNAL = 1
    SERVER = 2


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Times are `time.monotonic()`.

    Attributes:
        context: Its own ids.
        parent: Id of its parent in the same trace; b"" for none.
        name: What it is.
        kind: What it is to others.
        begun, ended: When.
        common: Attributes that many spans have.
        own: Attributes that it alone has.
        fault: None, or why it is an error.
        link: A span of another trace.
    """

    context: SpanContext
    parent: bytes
    name: str
    kind: Kind
    begun: float
    ended: float
    common: Attributes = ()
    own: Attributes = ()
    fault: str | None = None
    link: SpanContext | None = None


def request_spans(trace: Trace, new_span_id: Callable[[], bytes]) -> Iterator[Span]:
    """Yields the spans of a request that ended, its own first.

    Args:
        trace: What was noted.
        new_span_id: Makes up ids.
    """
    flags = SAMPLED | RANDOM if trace.parent is None else trace.parent.flags
    state = trace.parent.trace_state if trace.parent is not None else ""
    yield Span(
        SpanContext(trace.trace_id, trace.span_id, flags, state),
        trace.parent.span_id if trace.parent is not None else b"",
        trace.operation.name,
        Kind.SERVER,
        trace.begun,
        trace.finished,
        (*trace.operation.attributes.items(), *_route(trace)),
        _own(trace),
        trace.message[:MAX_MESSAGE] if trace.fault else None,
    )
    for name, begun, ended, own in _steps(trace):
        context = SpanContext(trace.trace_id, new_span_id(), flags, state)
        # A runner's thread has the same clock; what rounding does to sums is kept out of the picture.
        yield Span(context, trace.span_id, name, Kind.INTERNAL, begun, max(begun, ended), (), own)


def shadow_span(copy: ShadowCopy, trace_id: bytes, span_id: bytes) -> Span:
    """Returns the span of a copy, in the trace `trace_id`, which is its own."""
    trace = copy.trace
    flags = SAMPLED if trace.parent is None else trace.parent.flags
    common: Attributes = (
        ("turnout.model", copy.model),
        ("turnout.version", copy.version),
        ("turnout.role", "shadow"),
        ("turnout.epoch", copy.epoch),
        ("turnout.shadow.baseline", copy.baseline),
        ("turnout.shadow.outcome", copy.outcome),
        *((("error.type", copy.error), ("turnout.error", copy.error)) if copy.error else ()),
    )
    return Span(
        SpanContext(trace_id, span_id, SAMPLED | RANDOM),
        b"",
        "shadow",
        Kind.INTERNAL,
        copy.begun,
        copy.ended,
        common,
        (("turnout.request_id", trace.request_id[:MAX_TEXT]),),
        copy.message[:MAX_MESSAGE] if copy.error else None,
        SpanContext(trace.trace_id, trace.span_id, flags | SAMPLED),
    )


def _steps(trace: Trace) -> Iterator[tuple[str, float, float, Attributes]]:
    """Yields name, begin, end and attributes of each step that the request came to."""
    if not trace.routing:
        return
    yield "decode", trace.begun, trace.routing, ()
    yield "route", trace.routing, trace.routed, ()
    if trace.batch_rows is None:
        return
    yield "queue", trace.started - trace.queue_seconds, trace.started, ()
    batch = (("turnout.batch.size", trace.batch_rows), ("turnout.batch.requests", trace.batch_requests))
    yield "compute", trace.started, trace.started + trace.compute_seconds, batch
    yield "encode", trace.answered, trace.finished, ()


def _route(trace: Trace) -> Attributes:
    """Attributes that requests with the same route and status have in common."""
    answered: Attributes = ((trace.operation.status_key, trace.status),)
    if trace.fault:
        answered += (("error.type", str(trace.status)),)
    if trace.error:
        answered += (("turnout.error", trace.error),)
    if not trace.version:
        return answered
    return (
        *answered,
        ("turnout.model", trace.model),
        ("turnout.version", trace.version),
        ("turnout.role", trace.role),
        ("turnout.epoch", trace.epoch),
        ("turnout.digest", trace.digest),
    )


def _own(trace: Trace) -> Attributes:
    own: Attributes = (
        ("turnout.selector", trace.selector[:MAX_TEXT]),
        ("turnout.request_id", trace.request_id[:MAX_TEXT]),
    )
    if not trace.version:
        own = (("turnout.model", trace.model[:MAX_TEXT]), *own)
    if trace.batch_rows is not None:
        own = (*own, ("turnout.batch.size", trace.batch_rows))
    return (*own, *trace.details.items()) if trace.details else own
