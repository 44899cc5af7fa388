"""Propagates the caller's OpenTelemetry span to the server, as W3C Trace Context.

OpenTelemetry is not imported here: a program that has not imported it has no current span.
"""

import sys
from typing import Any

Pairs = tuple[tuple[str, str | bytes], ...]

_NONE = ("", "")


def caller() -> tuple[str, str]:
    """Returns `traceparent` and `tracestate` of the current span; both are "" if there is none."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return _NONE
    try:
        context = api.get_current_span().get_span_context()
    except AttributeError:  # another thread is still importing it
        return _NONE
    if not context.is_valid:
        return _NONE
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return parent, context.trace_state.to_header()


def traced(metadata: Pairs) -> Pairs:
    """Returns a call's metadata with the current span added. Existing trace context is not replaced."""
    parent, state = caller()
    if not parent or any(name == "traceparent" for name, _ in metadata):
        return metadata
    own = (*metadata, ("traceparent", parent))
    return (*own, ("tracestate", state)) if state else own
