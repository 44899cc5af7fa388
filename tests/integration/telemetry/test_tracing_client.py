"""The client tells a server which span calls it, where its program uses OpenTelemetry."""

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from client_faults import AnyClient
from onnx_models import scaled
from otlp_receiver import http_collector
from turnout.config import Tracing
from turnout_client import AsyncClient, Client
from turnout_client.tracing import traced
from wire import X


@pytest.fixture
def collector():
    with http_collector() as running:
        yield running


@pytest.fixture
async def server(publish_model, start_server, collector):
    """Records what its callers record, and nothing else."""
    publish_model("m", "1.0.0", scaled(2))
    return await start_server(tracing=Tracing(endpoint=collector.endpoint, sample_ratio=0.0, interval_s=0.05))


@pytest.mark.parametrize("transport", ["unary", "stream"])
@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_each_prediction_is_a_child_of_the_span_it_was_made_in(server, collector, kind, transport) -> None:
    tracer, silent = (TracerProvider(**more).get_tracer("test") for more in ({}, {"sampler": ALWAYS_OFF}))
    callers = []
    async with AnyClient(kind, str(server.grpc), transport=transport, retries=0) as client:
        await client.predict("m", {"x": X}, request_id="alone")
        for name in ("first", "second"):
            with tracer.start_as_current_span(name) as span:
                await client.predict("m", {"x": X}, request_id=name)
                callers.append(span.get_span_context())
        with silent.start_as_current_span("silent"):
            await client.predict("m", {"x": X}, request_id="silent")
    first, second = await collector.requests(2)
    for span, caller in zip((first, second), callers, strict=True):
        assert (span.trace_id, span.parent_id) == (f"{caller.trace_id:032x}", f"{caller.span_id:016x}")
    assert (first.attributes["turnout.request_id"], second.attributes["turnout.request_id"]) == ("first", "second")


def test_what_vendors_pass_along_is_passed_along_and_a_callers_own_parent_stays() -> None:
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1), trace_state=TraceState([("v", "1")]))
    with trace.use_span(NonRecordingSpan(context)):
        assert traced((("a", "b"),)) == (
            ("a", "b"),
            ("traceparent", f"00-{1:032x}-{2:016x}-01"),
            ("tracestate", "v=1"),
        )
        assert traced((("traceparent", "mine"),)) == (("traceparent", "mine"),)
    assert traced((("a", "b"),)) == (("a", "b"),)


def test_opentelemetry_is_not_imported_for_it() -> None:
    program = """
import sys
from turnout_client.tracing import caller, traced
assert caller() == ("", "") and traced(()) == ()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
