"""Parses W3C Trace Context: the trace and span of a caller. Pure.

https://www.w3.org/TR/trace-context-2/
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

SAMPLED = 0x01
RANDOM = 0x02

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_MAX_TRACESTATE = 512
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


@dataclass(frozen=True, slots=True)
class SpanContext:
    """A reference to a span.

    Attributes:
        trace_id: Trace id, 16 bytes, not all zero.
        span_id: Span id, 8 bytes, not all zero.
        flags: Bit set of `SAMPLED` (the caller records the trace) and `RANDOM` (the trace id is random).
        trace_state: Vendor-specific data, as received.
    """

    trace_id: bytes
    span_id: bytes
    flags: int
    trace_state: str = ""

    @property
    def sampled(self) -> bool:
        """Whether the caller records the trace."""
        return self.flags & SAMPLED != 0


def read(pairs: Iterable[tuple[str, str | bytes]]) -> SpanContext | None:
    """Returns the caller's span from a call's metadata or headers, with names in lower case; None if there is none."""
    parent: str | None = None
    states: list[str] = []
    for name, value in pairs:
        if name == TRACEPARENT:
            if parent is not None or not isinstance(value, str):
                return None  # duplicate headers are invalid
            parent = value
        elif name == TRACESTATE and isinstance(value, str):
            states.append(value)
    return None if parent is None else parse(parent, ",".join(states))


def parse(traceparent: str, tracestate: str = "") -> SpanContext | None:
    """Returns the span in the values of the two headers; None if they are invalid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    known = int(flags, 16) & (SAMPLED | RANDOM)
    state = tracestate if len(tracestate) <= _MAX_TRACESTATE and tracestate.isascii() else ""
    return SpanContext(bytes.fromhex(trace_id), bytes.fromhex(span_id), known, state)
