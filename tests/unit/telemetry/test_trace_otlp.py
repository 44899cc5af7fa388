"""Spans are packed by hand; the library for protobuf reads back what was noted, whatever that was."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from turnout.telemetry.tracing import otlp
from turnout.telemetry.tracing.context import SpanContext
from turnout.telemetry.tracing.trace import Operation, ShadowCopy, Trace
from turnout.telemetry.tracing.tracer import Tracer

OPERATION = Operation.rpc("a.Service", "Method")
IDS = iter(range(1, 10**9))
text = st.text(max_size=600)  # lone surrogates among them
moment = st.floats(0, 1e7)


class Nowhere:
    def keeps(self, trace: Trace, model: str) -> bool:
        return True

    def ended(self, trace: Trace) -> None: ...
    def copied(self, copy: ShadowCopy) -> None: ...


def new_ids(count: int) -> bytes:
    return b"".join(next(IDS).to_bytes(8) for _ in range(count))


def decoded(spans: bytes) -> list:
    beginnings = otlp.encode_resource((("service.name", "s"), ("a", True), ("b", 1.5), ("c", -3)), "scope", "1")
    export = ExportTraceServiceRequest.FromString(otlp.encode_export(beginnings, spans))
    (resource,) = export.resource_spans
    assert [pair.key for pair in resource.resource.attributes] == ["service.name", "a", "b", "c"]
    assert resource.resource.attributes[3].value.int_value == -3
    (scope,) = resource.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("scope", "1")
    return list(scope.spans)


def read(span) -> dict:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8),
    st.none() | st.builds(SpanContext, st.just(b"t" * 16), st.just(b"p" * 8), st.integers(0, 3), st.just("k=v")),
    text, text, text, text,
    st.none() | st.integers(0, 2**31),
    st.booleans(),
    st.lists(moment, min_size=6, max_size=6),
)  # fmt: skip
def test_what_was_noted_is_read_back(
    trace_id, span_id, parent, model, selector, request_id, message, rows, fault, times
) -> None:
    trace = Trace(True, trace_id, span_id, OPERATION, Nowhere(), parent)
    trace.model, trace.selector, trace.request_id, trace.message = model, selector, request_id, message
    trace.begun, trace.routing, trace.routed, trace.started, trace.answered, trace.finished = times
    trace.batch_rows, trace.fault, trace.status = rows, fault, "INTERNAL"
    data, count = otlp.encode_request(trace, new_ids)
    spans = decoded(data)
    assert len(spans) == count
    names = ["decode", "route", "queue", "compute", "encode"] if rows is not None else ["decode", "route"]
    assert [span.name for span in spans] == ["a.Service/Method", *(names if trace.routing else [])]
    request, *steps = spans
    assert (request.trace_id, request.span_id) == (trace_id, span_id)
    assert (request.parent_span_id, request.trace_state) == ((b"p" * 8, "k=v") if parent else (b"", ""))
    assert request.flags & 0xFF == (parent.flags if parent else 3)
    assert read(request)["turnout.request_id"] == request_id[:256].encode("utf-8", "replace").decode()
    assert read(request)["turnout.selector"] == selector[:256].encode("utf-8", "replace").decode()
    assert read(request).get("turnout.batch.size") == rows
    assert request.status.message == (message[:1024].encode("utf-8", "replace").decode() if fault else "")
    for step in steps:
        assert (step.trace_id, step.parent_span_id) == (trace_id, span_id)
        assert step.start_time_unix_nano <= step.end_time_unix_nano


def test_times_are_those_of_the_wall_clock() -> None:
    trace = Trace(True, b"t" * 16, b"s" * 8, OPERATION, Nowhere())
    before = time.time_ns()
    trace.finished = trace.begun + 0.25
    data, _ = otlp.encode_request(trace, new_ids)
    (span,) = decoded(data)
    assert abs(span.start_time_unix_nano - before) < 1e9
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(0.25e9, abs=1000)


def test_a_copy_that_failed_is_an_error_with_a_link() -> None:
    trace = Trace(True, b"t" * 16, b"s" * 8, OPERATION, Nowhere())
    copy = ShadowCopy(trace, "m", "1.1.0", "1.0.0", 7, "timed_out", 1.0, 2.0, "ModelTimedOut", "it took too long")
    (span,) = decoded(otlp.encode_copy(copy, b"u" * 16, b"v" * 8))
    assert (span.trace_id, span.span_id, span.parent_span_id) == (b"u" * 16, b"v" * 8, b"")
    assert [(link.trace_id, link.span_id) for link in span.links] == [(b"t" * 16, b"s" * 8)]
    assert (span.status.code, span.status.message) == (2, "it took too long")
    assert read(span)["error.type"] == read(span)["turnout.error"] == "ModelTimedOut"
    assert read(span)["turnout.shadow.outcome"] == "timed_out"


@pytest.mark.parametrize(("ratio", "traced"), [(0.0, 0), (1.0, 1000)])
def test_none_and_all_are_exact(ratio, traced) -> None:
    tracer = Tracer(ratio, lambda _: None, lambda _: None)
    begun = [tracer.begin(OPERATION, None) for _ in range(1000)]
    assert sum(trace is not None for trace in begun) == traced
    assert len({trace.trace_id for trace in begun if trace}) == traced


def test_a_share_of_requests_is_traced_and_their_ids_tell_which_share() -> None:
    tracer = Tracer(0.1, lambda _: None, lambda _: None)
    begun = [trace for _ in range(50_000) if (trace := tracer.begin(OPERATION, None))]
    assert 4_600 <= len(begun) <= 5_400  # six standard deviations
    assert all(int.from_bytes(trace.trace_id) % 2**56 < 0.1 * 2**56 for trace in begun)
    assert len({trace.trace_id for trace in begun}) == len(begun)


def test_a_request_ends_once() -> None:
    ended = []

    class Sink(Nowhere):
        def ended(self, trace: Trace) -> None:
            ended.append(trace.status)

    trace = Trace(True, b"t" * 16, b"s" * 8, OPERATION, Sink())
    trace.end("INTERNAL", fault=True)
    trace.end("OK", fault=False)
    assert ended == ["INTERNAL"]


async def test_spans_are_made_in_batches_and_a_burst_in_several() -> None:
    made: list[int] = []
    tracer = Tracer(1.0, lambda traces: made.append(len(traces)), lambda _: None)

    def end(count: int) -> None:
        for _ in range(count):
            trace = tracer.begin(OPERATION, None)
            assert trace is not None
            trace.end("OK", fault=False)

    async def until(total: int) -> None:
        async with asyncio.timeout(60):
            while sum(made) < total:
                await asyncio.sleep(0)

    end(3)
    assert made == []  # they wait for others
    await until(3)
    end(100)
    await until(103)
    assert [count for count in made if count] == [3, 64, 36]
    end(2)
    tracer.flush()
    assert sum(made) == 105
