"""Encodes spans as OTLP.

Encoding the six spans of a request takes 60 us with the protobuf library, and 12 us here. The fields that all spans
have are packed in one call, since their lengths are fixed, and attributes that many spans share are encoded once and
cached: concatenated protobuf messages parse as one merged message. The tests decode the result with the library.
"""

import time
from collections.abc import Callable, Hashable
from functools import lru_cache
from struct import Struct

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from turnout.telemetry.tracing.context import RANDOM, SAMPLED
from turnout.telemetry.tracing.spans import (
    MAX_MESSAGE,
    SHADOW,
    Attributes,
    Value,
    copy_attributes,
    own_attributes,
    request_attributes,
    steps,
)
from turnout.telemetry.tracing.trace import ShadowCopy, Trace
from turnout.wire_format import delimited, tag

NewIds = Callable[[int], bytes]
"""A function that returns the given number of new span ids, concatenated."""

_REMOTE_KNOWN, _REMOTE = 0x100, 0x200
"""OTLP's flags in addition to W3C's: whether it is known if a parent or link is remote, and whether it is remote."""

_COMMON_SETS = 4096
"""Maximum number of cached sets of attributes. It is limited because they contain selectors, which clients choose."""

_FIXED64, _FIXED32 = 1, 5

_TRACE_ID = tag(Span.TRACE_ID_FIELD_NUMBER) + b"\x10"
_SPAN_ID = tag(Span.SPAN_ID_FIELD_NUMBER) + b"\x08"
_PARENT_ID = tag(Span.PARENT_SPAN_ID_FIELD_NUMBER) + b"\x08"
_BEGIN = tag(Span.START_TIME_UNIX_NANO_FIELD_NUMBER, _FIXED64)
_END = tag(Span.END_TIME_UNIX_NANO_FIELD_NUMBER, _FIXED64)
_FLAGS = tag(Span.FLAGS_FIELD_NUMBER, _FIXED32)
_HEAD = Struct("<2s16s2s8ssQsQ2sI").pack


def encode_request(trace: Trace, new_ids: NewIds) -> tuple[bytes, int]:
    """Returns the encoded spans of an ended request, as items of ScopeSpans, and their number.

    The request's own span comes first, followed by the spans of its steps.
    """
    trace_id, span_id, parent, offset = trace.trace_id, trace.span_id, trace.parent, _wall_offset()
    if parent is None:
        flags, state, caller, remote = SAMPLED | RANDOM | _REMOTE_KNOWN, b"", b"", 0
    else:
        flags, caller, remote = parent.flags | _REMOTE_KNOWN, _PARENT_ID + parent.span_id, _REMOTE
        state = delimited(Span.TRACE_STATE_FIELD_NUMBER, parent.trace_state.encode()) if parent.trace_state else b""
    begin, end = int(trace.begun * 1e9) + offset, int(trace.finished * 1e9) + offset
    head = _HEAD(_TRACE_ID, trace_id, _SPAN_ID, span_id, _BEGIN, begin, _END, end, _FLAGS, flags | remote)
    body = _named(trace.operation.name, Span.SPAN_KIND_SERVER) + _common(trace)
    fault = _fault(trace.message) if trace.fault else b""
    own = b"".join(_text(key, value) for key, value in own_attributes(trace))  # without details, its id comes last
    spans = [_item(b"".join((head, caller, state, body, own, fault)))]
    state = _PARENT_ID + span_id + state
    taken = list(steps(trace))
    ids = new_ids(len(taken))
    for number, (step, begun, ended, attributes) in enumerate(taken):
        begin = int(begun * 1e9) + offset
        end = max(int(ended * 1e9) + offset, begin)
        step_id = ids[8 * number : 8 * number + 8]
        head = _HEAD(_TRACE_ID, trace_id, _SPAN_ID, step_id, _BEGIN, begin, _END, end, _FLAGS, flags)
        spans.append(_item(head + state + _named(step, Span.SPAN_KIND_INTERNAL) + _encode_cached(attributes)))
    return b"".join(spans), len(spans)


def encode_copy(copy: ShadowCopy, trace_id: bytes, span_id: bytes) -> bytes:
    """Returns the encoded span of a copy, as an item of ScopeSpans. `trace_id` is the id of the copy's own trace."""
    offset, trace = _wall_offset(), copy.trace
    begin, end = int(copy.begun * 1e9) + offset, int(copy.ended * 1e9) + offset
    flags = SAMPLED | RANDOM | _REMOTE_KNOWN
    head = _HEAD(_TRACE_ID, trace_id, _SPAN_ID, span_id, _BEGIN, begin, _END, end, _FLAGS, flags)
    request = Span.Link(trace_id=trace.trace_id, span_id=trace.span_id, flags=SAMPLED | _REMOTE_KNOWN)
    link = delimited(Span.LINKS_FIELD_NUMBER, request.SerializeToString())
    fault = _fault(copy.message) if copy.error else b""
    return _item(head + _named(SHADOW, Span.SPAN_KIND_INTERNAL) + _encode(copy_attributes(copy)) + link + fault)


_known: dict[tuple[Hashable, ...], bytes] = {}


def _common(trace: Trace) -> bytes:
    """Returns the encoded attributes that many requests share. The cache key is all that `request_attributes` reads."""
    key = (
        trace.operation, trace.status, trace.fault, trace.error, trace.model, trace.selector, trace.version,
        trace.role, trace.epoch, trace.digest, trace.batch_rows,
    )  # fmt: skip
    common = _known.get(key)
    if common is None:
        if len(_known) >= _COMMON_SETS:
            _known.clear()
        common = _known[key] = _encode(request_attributes(trace))
    return common


def encode_resource(attributes: Attributes, scope: str, version: str) -> tuple[bytes, bytes]:
    """Returns the beginnings of a ResourceSpans and its ScopeSpans message, which identify the source of the spans."""
    resource = Resource(attributes=[_pair(key, value) for key, value in attributes])
    made_by = InstrumentationScope(name=scope, version=version)
    return ResourceSpans(resource=resource).SerializeToString(), ScopeSpans(scope=made_by).SerializeToString()


def encode_export(beginnings: tuple[bytes, bytes], spans: bytes) -> bytes:
    """Returns an encoded ExportTraceServiceRequest of what `encode_resource` returned, and of concatenated spans."""
    resource, scope = beginnings
    scoped = resource + delimited(ResourceSpans.SCOPE_SPANS_FIELD_NUMBER, scope + spans)
    return delimited(ExportTraceServiceRequest.RESOURCE_SPANS_FIELD_NUMBER, scoped)


def _wall_offset() -> int:
    """Returns the offset from `time.monotonic()` to the time since 1970, in nanoseconds."""
    return time.time_ns() - time.monotonic_ns()


def _item(span: bytes) -> bytes:
    return delimited(ScopeSpans.SPANS_FIELD_NUMBER, span)


@lru_cache
def _named(name: str, kind: Span.SpanKind.ValueType) -> bytes:
    return Span(name=name, kind=kind).SerializeToString()


def _fault(message: str) -> bytes:
    return Span(status=Status(code=Status.STATUS_CODE_ERROR, message=_utf8(message[:MAX_MESSAGE]))).SerializeToString()


def _encode(attributes: Attributes) -> bytes:
    return Span(attributes=[_pair(key, value) for key, value in attributes]).SerializeToString()


_encode_cached = lru_cache(_COMMON_SETS)(_encode)


def _text(key: str, value: str) -> bytes:
    """Returns an encoded string attribute, for which the protobuf library would take 6 us."""
    text = delimited(AnyValue.STRING_VALUE_FIELD_NUMBER, _utf8(value).encode())
    return delimited(Span.ATTRIBUTES_FIELD_NUMBER, _key(key) + delimited(KeyValue.VALUE_FIELD_NUMBER, text))


@lru_cache
def _key(key: str) -> bytes:
    return KeyValue(key=key).SerializeToString()


def _pair(key: str, value: Value) -> KeyValue:
    if isinstance(value, str):
        return KeyValue(key=key, value=AnyValue(string_value=_utf8(value)))
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    return KeyValue(key=key, value=AnyValue(double_value=value))


def _utf8(text: str) -> str:
    """Returns `text` without lone surrogates, which can occur in JSON but not in UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
