"""Derives the spans of a request from its recorded timings. Pure.

SERVER  turnout.v1.PredictionService/Predict
          |-- decode    until the request is decoded into tensors
          |-- route     until the version is chosen
          |-- queue     from admission to the start of the run
          |-- compute   the run of the whole batch
          |-- encode    until the answer is encoded
shadow  in a separate trace, linked to the request's span
"""

from collections.abc import Iterator

from turnout.telemetry.tracing.trace import ShadowCopy, Trace

Value = str | int | float | bool
Attributes = tuple[tuple[str, Value], ...]
Step = tuple[str, float, float, Attributes]
"""Name, start, end (both in `time.monotonic` seconds) and attributes of a step."""

SHADOW = "shadow"
MAX_TEXT = 256
"""Maximum length of an attribute that comes from a client, in characters."""

MAX_MESSAGE = 1024


def steps(trace: Trace) -> Iterator[Step]:
    """Yields each step that the request reached, in order."""
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


def request_attributes(trace: Trace) -> Attributes:
    """Returns the attributes of a request's span that many requests share. `own_attributes` returns the others."""
    operation = trace.operation
    attributes: Attributes = (*operation.attributes, (operation.status_key, trace.status))
    if trace.fault:
        attributes += (("error.type", str(trace.status)),)
    if trace.error:
        attributes += (("turnout.error", trace.error),)
    attributes += (("turnout.model", trace.model[:MAX_TEXT]), ("turnout.selector", trace.selector[:MAX_TEXT]))
    if trace.version:
        attributes += (
            ("turnout.version", trace.version),
            ("turnout.role", trace.role),
            ("turnout.epoch", trace.epoch),
            ("turnout.digest", trace.digest),
        )
    if trace.batch_rows is not None:
        attributes += (("turnout.batch.size", trace.batch_rows),)
    return attributes


def own_attributes(trace: Trace) -> tuple[tuple[str, str], ...]:
    """Returns the attributes that are specific to this request's span."""
    return (("turnout.request_id", trace.request_id[:MAX_TEXT]), *trace.details)


def copy_attributes(copy: ShadowCopy) -> Attributes:
    """Returns the attributes of a copy's span."""
    attributes: Attributes = (
        ("turnout.model", copy.model),
        ("turnout.version", copy.version),
        ("turnout.role", SHADOW),
        ("turnout.epoch", copy.epoch),
        ("turnout.shadow.baseline", copy.baseline),
        ("turnout.shadow.outcome", copy.outcome),
        ("turnout.request_id", copy.trace.request_id[:MAX_TEXT]),
    )
    return (*attributes, ("error.type", copy.error), ("turnout.error", copy.error)) if copy.error else attributes
