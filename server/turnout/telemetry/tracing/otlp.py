"""Spans as OTLP's bytes.

What many spans have in common is encoded once: bytes of one protobuf message put after another's are both, merged.
"""

import time
from functools import lru_cache

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from turnout.telemetry.tracing.spans import Attributes, Span, Value

_REMOTE_KNOWN, _REMOTE = 0x100, 0x200
"""OTLP's flags beside those of W3C: whether it is known that a parent or link is remote, and whether it is."""

_COMMON_SETS = 4096
"""Sets of attributes that are remembered: routes times statuses."""


class Clock:
    """Turns `time.monotonic()` into nanoseconds since 1970, by one reading of both clocks."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def unix_ns(self, monotonic: float) -> int:
        """Returns the nanoseconds at a time in seconds."""
        return int(monotonic * 1e9) + self._offset


def encode_span(span: Span, clock: Clock, *, remote_parent: bool = False) -> bytes:
    """Returns one span as an item of ScopeSpans.

    Args:
        span: The span.
        clock: Tells what its times are.
        remote_parent: Whether its parent is a span of another process.
    """
    context = span.context
    message = Message(
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_span_id=span.parent,
        trace_state=context.trace_state,
        flags=context.flags | _REMOTE_KNOWN | (_REMOTE if remote_parent else 0),
        name=span.name,
        kind=Message.SpanKind.ValueType(span.kind),
        start_time_unix_nano=clock.unix_ns(span.begun),
        end_time_unix_nano=clock.unix_ns(span.ended),
    )
    if span.fault is not None:
        message.status.code = Status.STATUS_CODE_ERROR
        message.status.message = span.fault
    if span.link is not None:
        message.links.add(trace_id=span.link.trace_id, span_id=span.link.span_id, flags=span.link.flags | _REMOTE_KNOWN)
    data = message.SerializeToString()
    if span.common:
        data += encode_attributes(span.common)
    if span.own:
        data += encode_attributes.__wrapped__(span.own)
    return _field(ScopeSpans.SPANS_FIELD_NUMBER, data)


@lru_cache(_COMMON_SETS)
def encode_attributes(attributes: Attributes) -> bytes:
    """Returns a span that has nothing but attributes."""
    return Message(attributes=[_pair(key, value) for key, value in attributes]).SerializeToString()


def encode_resource(attributes: Attributes, scope: str, version: str) -> tuple[bytes, bytes]:
    """Returns how a ResourceSpans and its ScopeSpans begin: who made the spans.

    Args:
        attributes: Of the resource.
        scope: Name of the instrumentation.
        version: Of it.
    """
    resource = Resource(attributes=[_pair(key, value) for key, value in attributes])
    made_by = InstrumentationScope(name=scope, version=version)
    return (
        ResourceSpans(resource=resource).SerializeToString(),
        ScopeSpans(scope=made_by).SerializeToString(),
    )


def encode_export(beginnings: tuple[bytes, bytes], spans: bytes) -> bytes:
    """Returns an ExportTraceServiceRequest.

    Args:
        beginnings: As `encode_resource` returned them.
        spans: Of `encode_span`, one after another.
    """
    resource, scope = beginnings
    scoped = resource + _field(ResourceSpans.SCOPE_SPANS_FIELD_NUMBER, scope + spans)
    return _field(ExportTraceServiceRequest.RESOURCE_SPANS_FIELD_NUMBER, scoped)


def _pair(key: str, value: Value) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    if isinstance(value, float):
        return KeyValue(key=key, value=AnyValue(double_value=value))
    # A client's text may hold what no UTF-8 has: JSON has escapes for lone surrogates.
    return KeyValue(key=key, value=AnyValue(string_value=value.encode("utf-8", "replace").decode()))


def _field(number: int, data: bytes) -> bytes:
    """Returns a length-delimited field of a protobuf message."""
    header = bytearray([number << 3 | 2])
    length = len(data)
    while length >= 0x80:
        header.append(length & 0x7F | 0x80)
        length >>= 7
    header.append(length)
    return bytes(header) + data
