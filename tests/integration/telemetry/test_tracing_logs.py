"""What is logged of a request names its trace, and nothing else is said of traces."""

import json

import pytest

from onnx_models import scaled
from otlp_receiver import http_collector
from started_servers import make_settings
from turnout.app.server import running
from turnout.config import Log, Tracing
from turnout.telemetry.logging import make_logger
from wire import X, refusal, request, stub_of

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def logged(publish_model, models, capsys):
    """Sends a request that is answered, one that fails, and two whose caller has a span; returns the lines by id."""

    async def send(model="m", **settings) -> dict[str, dict]:
        publish_model(model, "1.0.0", scaled(2))
        all_settings = make_settings(models, log=Log(access_sample_rate=1.0), **settings)
        async with running(all_settings, make_logger("json", "info")) as server, stub_of(server) as stub:
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            await stub.Predict(request(model, x=X, request_id="answered"))
            await refusal(stub.Predict(request(model, "9", x=X, request_id="failed")))
            for name, flags in (("recorded", "01"), ("unrecorded", "00")):
                parent = [("traceparent", f"00-{TRACE}-{CALLER}-{flags}")]
                await refusal(stub.Predict(request(model, "9", x=X, request_id=name), metadata=parent))
        lines = map(json.loads, capsys.readouterr().err.splitlines())
        return {line["request_id"]: line for line in lines if line["event"] == "request"}

    return send


async def test_lines_of_traced_requests_name_the_trace_and_the_span(logged) -> None:
    with http_collector() as collector:
        tracing = Tracing(endpoint=collector.endpoint, sample_ratio=1, interval_s=0.05)
        lines = await logged(tracing=tracing)
        spans = {span.attributes["turnout.request_id"]: span for span in await collector.requests(3)}
    for name in ("answered", "failed", "recorded"):
        assert (lines[name]["trace_id"], lines[name]["span_id"]) == (spans[name].trace_id, spans[name].span_id)
    assert lines["recorded"]["trace_id"] == TRACE
    # Nothing is recorded here; the caller's ids still tell whose request it was.
    assert (lines["unrecorded"]["trace_id"], lines["unrecorded"]["span_id"]) == (TRACE, CALLER)


async def test_lines_say_nothing_of_traces_where_tracing_is_off(logged) -> None:
    lines = await logged()
    assert lines.keys() == {"answered", "failed", "recorded", "unrecorded"}
    assert all("trace_id" not in line for line in lines.values())


async def test_lines_have_the_whole_name_of_a_model_however_long(logged) -> None:
    longest = "m" * 128
    lines = await logged(longest)
    assert {name: lines[name]["model"] for name in ("answered", "failed")} == {"answered": longest, "failed": longest}
