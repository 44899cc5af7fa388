"""The spans of a request that went the usual way, which is what nearly all do: answered, every step taken.

Of such a request's six spans all but the ids, eight points in time and the request's own id has been the same before.
So what stands between those is made once, and then spans are those pieces and these values put in a row: 5 us where
`turnout.telemetry.tracing.otlp` takes 13. What is packed is the same, byte for byte; other requests go that way.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from struct import Struct

from turnout.telemetry.tracing import otlp
from turnout.telemetry.tracing.context import RANDOM, SAMPLED
from turnout.telemetry.tracing.otlp import BEGIN, END, FLAGS, PARENT_ID, SPAN_ID, SPANS, TRACE_ID, NewIds
from turnout.telemetry.tracing.spans import MAX_TEXT, Kind, steps
from turnout.telemetry.tracing.trace import Trace

_STEPS = 5
_COUNT = 1 + _STEPS

_FRAMES = 4096
"""Kinds of requests that are remembered. Selectors are in them, and come from clients: their number needs a bound."""

_TIMES = Struct("<" + "sQsQ" * _COUNT).pack
_FLAG_BITS = Struct("<I").pack


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands between the values, in order.

    Attributes:
        opening: Of the request's span.
        flags: Of that span, and the tag of its parent where it has one.
        common: Its name and attributes, as far as the value of its request's id.
        steps: Of each step: how it opens, and its name and attributes.
        step_flags: Of each step, and the tag of its parent.
    """

    opening: bytes
    flags: bytes
    common: bytes
    steps: Sequence[tuple[bytes, bytes]]
    step_flags: bytes


_frames: dict[tuple[Hashable, ...], _Frame] = {}


def encode_request(trace: Trace, new_ids: NewIds) -> tuple[bytes, int]:
    """Returns the spans of a request that ended as items of ScopeSpans, its own first, and their number."""
    begun, routing, routed, answered, finished = (
        trace.begun, trace.routing, trace.routed, trace.answered, trace.finished
    )  # fmt: skip
    parent, batch_rows, started, queue, compute = (
        trace.parent, trace.batch_rows, trace.started, trace.queue_seconds, trace.compute_seconds
    )  # fmt: skip
    if (
        batch_rows is None
        or trace.fault
        or trace.details
        or not (0.0 < begun <= routing <= routed and begun <= finished >= answered and queue >= 0.0 <= compute)
        or (parent is not None and parent.trace_state)
    ):
        return otlp.encode_request(trace, new_ids)
    own = otlp.utf8(trace.request_id[:MAX_TEXT]).encode()
    parent_flags, parent_id = (-1, b"") if parent is None else (parent.flags, parent.span_id)
    key = (
        trace.operation, trace.status, trace.error, trace.model, trace.selector, trace.version, trace.role,
        trace.epoch, trace.digest, batch_rows, trace.batch_requests, len(own), parent_flags,
    )  # fmt: skip
    frame = _frames.get(key)
    if frame is None:
        if len(_frames) >= _FRAMES:
            _frames.clear()
        frame = _frames[key] = _frame(trace, own, parent_flags)
    offset = otlp.wall_offset()
    at_begin, at_routing, at_routed = int(begun * 1e9) + offset, int(routing * 1e9) + offset, int(routed * 1e9) + offset
    at_queued, at_start = int((started - queue) * 1e9) + offset, int(started * 1e9) + offset
    at_run, at_answer, at_end = (
        int((started + compute) * 1e9) + offset, int(answered * 1e9) + offset, int(finished * 1e9) + offset
    )  # fmt: skip
    b, e = BEGIN, END
    t = _TIMES(
        b, at_begin, e, at_end, b, at_begin, e, at_routing, b, at_routing, e, at_routed,
        b, at_queued, e, at_start, b, at_start, e, at_run, b, at_answer, e, at_end,
    )  # fmt: skip
    ids = new_ids(_STEPS)
    trace_id, span_id, flags = trace.trace_id, trace.span_id, frame.step_flags
    (o1, c1), (o2, c2), (o3, c3), (o4, c4), (o5, c5) = frame.steps
    return b"".join(
        (
            frame.opening, trace_id, SPAN_ID, span_id, t[:18], frame.flags, parent_id, frame.common, own,
            o1, trace_id, SPAN_ID, ids[:8], t[18:36], flags, span_id, c1,
            o2, trace_id, SPAN_ID, ids[8:16], t[36:54], flags, span_id, c2,
            o3, trace_id, SPAN_ID, ids[16:24], t[54:72], flags, span_id, c3,
            o4, trace_id, SPAN_ID, ids[24:32], t[72:90], flags, span_id, c4,
            o5, trace_id, SPAN_ID, ids[32:], t[90:], flags, span_id, c5,
        )
    ), _COUNT  # fmt: skip


def _frame(trace: Trace, own: bytes, parent_flags: int) -> _Frame:
    """Makes what requests like this one have in common."""
    remote, flags = (otlp.REMOTE, parent_flags) if parent_flags >= 0 else (0, SAMPLED | RANDOM)
    flags |= otlp.REMOTE_KNOWN
    request_flags = FLAGS + _FLAG_BITS(flags | remote) + (PARENT_ID if parent_flags >= 0 else b"")
    step_flags = FLAGS + _FLAG_BITS(flags) + PARENT_ID
    common = otlp.named(trace.operation.name, Kind.SERVER) + otlp.common(trace) + otlp.own(trace)
    parent_id = 8 if parent_flags >= 0 else 0
    return _Frame(
        _opening(len(request_flags) + parent_id + len(common)),
        request_flags,
        common[: len(common) - len(own)],
        [
            (_opening(len(step_flags) + 8 + len(body)), body)
            for name, _, _, attributes in steps(trace)
            for body in [otlp.named(name, Kind.INTERNAL) + otlp.encode_attributes(attributes)]
        ],
        step_flags,
    )


def _opening(rest: int) -> bytes:
    """Returns how a span begins of which `rest` bytes follow its ids and times."""
    return SPANS + otlp.varint(len(TRACE_ID) + 16 + len(SPAN_ID) + 8 + 18 + rest) + TRACE_ID
