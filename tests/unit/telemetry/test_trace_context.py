"""A caller's span is read as W3C Trace Context says, and a part of it that is wrong is not a span at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.telemetry.tracing.context import SpanContext, parse, read

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_a_span_is_read_with_its_decision_and_its_state() -> None:
    context = read([("other", "x"), ("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")])
    assert context == SpanContext(bytes.fromhex(TRACE), bytes.fromhex(SPAN), 1, "a=1,b=2")
    assert context.sampled
    not_sampled = parse(f"00-{TRACE}-{SPAN}-02")
    assert not_sampled is not None
    assert not not_sampled.sampled


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f" {PARENT}",
        f"00-{TRACE[:-1]}-{SPAN}-01",
    ],
)
def test_what_is_no_traceparent_names_no_span(text) -> None:
    assert parse(text) is None


def test_a_version_to_come_is_read_as_far_as_it_is_known() -> None:
    assert parse(f"01-{TRACE}-{SPAN}-09-what-comes-then") == SpanContext(bytes.fromhex(TRACE), bytes.fromhex(SPAN), 1)
    assert parse(f"01-{TRACE}-{SPAN}-01") is not None
    assert parse(f"01-{TRACE}-{SPAN}-01.") is None


def test_two_parents_are_no_parent() -> None:
    assert read([("traceparent", PARENT), ("traceparent", PARENT)]) is None


def test_a_state_that_is_too_long_is_left_out_and_the_span_stays() -> None:
    context = read([("traceparent", PARENT), ("tracestate", "a=" + "x" * 512)])
    assert context is not None
    assert context.trace_state == ""


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_nothing_that_a_client_sends_raises(text) -> None:
    context = parse(text, text)
    if context is not None:
        assert (len(context.trace_id), len(context.span_id)) == (16, 8)
        assert any(context.trace_id)
        assert any(context.span_id)
