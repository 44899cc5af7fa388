"""Spans on their way to a collector: over HTTP and gRPC, past its troubles, within bounds; and nothing where off."""

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from onnx_models import scaled
from otlp_receiver import grpc_collector, http_collector
from ports import free_port
from routing_wire import scrape
from turnout.config import Tracing
from turnout.telemetry.logging import make_logger
from turnout.telemetry.tracing.setup import tracing
from turnout.telemetry.tracing.trace import Operation
from wire import X, request, stub_of

OPERATION = Operation.rpc("a.Service", "Method")
COLLECTORS = {"http/protobuf": http_collector, "grpc": grpc_collector}


@pytest.fixture(params=COLLECTORS)
def protocol(request):
    return request.param


@pytest.fixture
def collector(protocol):
    with COLLECTORS[protocol]() as running:
        yield running


@asynccontextmanager
async def tracer_to(endpoint: str, counts: dict[str, int], **settings):
    """Begins traces whose spans go to `endpoint`, whatever the server."""
    all_settings = {"sample_ratio": 1.0, "interval_s": 0.05} | settings
    async with tracing(Tracing(endpoint=endpoint, **all_settings), counts, make_logger("json", "warning")) as tracer:
        assert tracer is not None
        yield tracer


async def ended(tracer, count: int) -> None:
    """Begins and ends requests; their spans are in the queue afterwards."""
    for _ in range(count):
        tracer.begin(OPERATION, None).end("OK", fault=False)
    await asyncio.sleep(0)


async def until(counts: dict[str, int], **wanted: int) -> None:
    async with asyncio.timeout(100):
        while any(counts[outcome] < count for outcome, count in wanted.items()):
            await asyncio.sleep(0.01)
    assert {outcome: count for outcome, count in counts.items() if count} == wanted


async def test_spans_and_headers_reach_a_collector_over_either_protocol(
    collector, protocol, publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    settings = Tracing(
        endpoint=collector.endpoint,
        protocol=protocol,
        headers={"authorization": "Bearer abc"},
        service_name="shop",
        sample_ratio=1,
        interval_s=0.05,
    )
    server = await start_server(tracing=settings)
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X))
    (span,) = await collector.requests(1)
    assert span.resource["service.name"] == "shop"
    assert span.resource.keys() >= {"service.version", "service.instance.id", "host.name", "telemetry.sdk.language"}
    assert collector.headers[0]["authorization"] == "Bearer abc"
    if protocol == "http/protobuf":
        assert collector.paths == ["/v1/traces"]
    assert (await scrape(server))["turnout_trace_spans_total", "outcome=exported"] == 6


async def test_a_path_of_the_endpoints_own_is_kept() -> None:
    for path in ("", "/", "/v1/traces", "/otlp", "/otlp/v1/traces"):
        with http_collector() as collector:
            counts: dict[str, int] = {}
            async with tracer_to(collector.endpoint + path, counts) as tracer:
                await ended(tracer, 1)
            assert collector.paths == [path.removesuffix("/v1/traces").rstrip("/") + "/v1/traces"]


async def test_what_waits_is_sent_before_the_server_ends(collector, protocol) -> None:
    counts: dict[str, int] = {}
    async with tracer_to(collector.endpoint, counts, protocol=protocol, interval_s=60) as tracer:
        await ended(tracer, 3)
    assert len(collector.spans) == 3
    assert counts == {"exported": 3, "dropped": 0, "rejected": 0, "failed": 0}


async def test_an_export_that_a_collector_has_no_time_for_is_sent_again(collector, protocol) -> None:
    busy = {"http/protobuf": [(503, {}), (429, {"Retry-After": "1"})], "grpc": [grpc.StatusCode.UNAVAILABLE] * 2}
    collector.answers = busy[protocol]
    counts: dict[str, int] = {}
    async with tracer_to(collector.endpoint, counts, protocol=protocol) as tracer:
        await ended(tracer, 2)
        await until(counts, exported=2)
    assert len(collector.headers) == 3
    assert len(collector.spans) == 2


async def test_no_proxy_of_the_environment_is_asked_for_a_collector_on_this_machine(
    collector, protocol, monkeypatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nobody listens there
    counts: dict[str, int] = {}
    async with tracer_to(collector.endpoint, counts, protocol=protocol) as tracer:
        await ended(tracer, 1)
        await until(counts, exported=1)


async def test_an_export_that_is_refused_is_not_sent_again(collector, protocol) -> None:
    collector.answers = [{"http/protobuf": (400, {}), "grpc": grpc.StatusCode.INVALID_ARGUMENT}[protocol]]
    counts: dict[str, int] = {}
    async with tracer_to(collector.endpoint, counts, protocol=protocol) as tracer:
        await ended(tracer, 2)
        await until(counts, rejected=2)
        await ended(tracer, 1)
        await until(counts, rejected=2, exported=1)
    assert len(collector.headers) == 2


async def test_a_redirect_is_not_followed_with_what_proves_who_the_server_is() -> None:
    with http_collector() as elsewhere, http_collector() as collector:
        collector.answers = [(status, {"Location": f"{elsewhere.endpoint}/v1/traces"}) for status in (302, 307)]
        counts: dict[str, int] = {}
        async with tracer_to(collector.endpoint, counts, headers={"authorization": "Bearer hush"}) as tracer:
            for rejected in (1, 2):
                await ended(tracer, 1)
                await until(counts, rejected=rejected)
    assert elsewhere.headers == []


async def test_spans_that_a_collector_rejects_are_counted_as_such(collector, protocol) -> None:
    collector.response.partial_success.rejected_spans = 1
    collector.response.partial_success.error_message = "too old"
    counts: dict[str, int] = {}
    async with tracer_to(collector.endpoint, counts, protocol=protocol) as tracer:
        await ended(tracer, 3)
        await until(counts, exported=2, rejected=1)


@pytest.mark.parametrize("protocol", COLLECTORS)
async def test_where_there_is_no_collector_requests_are_answered_and_spans_are_dropped_past_the_bound(
    protocol, publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    settings = Tracing(
        endpoint=f"http://127.0.0.1:{free_port()}",
        protocol=protocol,
        sample_ratio=1,
        interval_s=0.05,
        timeout_s=1,
        max_queue_spans=64,
        max_batch_spans=64,
    )
    server = await start_server(tracing=settings)
    async with stub_of(server) as stub:
        for _ in range(60):
            await stub.Predict(request("m", x=X))
    metrics = await scrape(server)
    lost = [metrics["turnout_trace_spans_total", f"outcome={outcome}"] for outcome in ("dropped", "failed")]
    assert sum(lost) >= 60 * 6 - 2 * 64
    assert lost[0] > 0, "not all of them waited for a second"
    assert metrics["turnout_trace_spans_total", "outcome=exported"] == 0


async def test_an_export_is_no_larger_than_collectors_take(collector, protocol) -> None:
    counts: dict[str, int] = {}
    settings = {"protocol": protocol, "max_batch_spans": 65536, "max_queue_spans": 65536, "interval_s": 2.0}
    async with tracer_to(collector.endpoint, counts, **settings) as tracer:
        for _ in range(5000):
            tracer.begin(OPERATION, None).end("INTERNAL", fault=True, message="x" * 1024)
        await until(counts, exported=5000)
    assert 2 <= len(collector.exports) <= 3
    assert max(export.ByteSize() for export in collector.exports) < 4 * 2**20


async def test_trouble_is_told_once_and_names_no_header() -> None:
    with http_collector() as collector, capture_logs() as lines:
        collector.answers = [(400, {}), (400, {})]
        counts: dict[str, int] = {}
        settings = Tracing(endpoint=collector.endpoint, headers={"x-key": "hush"}, sample_ratio=1, interval_s=0.05)
        async with tracing(settings, counts, structlog.get_logger()) as tracer:
            for rejected in (1, 2):
                await ended(tracer, 1)
                await until(counts, rejected=rejected)
            await ended(tracer, 1)
            await until(counts, rejected=2, exported=1)
    assert [(line["event"], line.get("reason")) for line in lines] == [
        ("spans are not exported", "HTTP 400"),
        ("spans are exported again", None),
    ]
    assert "hush" not in repr(lines)
    assert "hush" not in repr(settings)


_OFF = """
import asyncio, sys
import numpy
from pathlib import Path
from turnout.app.server import running
from turnout.__main__ import main
from turnout.config import Address, Settings
from turnout.telemetry.logging import make_logger
import turnout_client

free = Address("127.0.0.1", 0)
settings = Settings(models=Path(sys.argv[1]), grpc=free, http=free, control=free)

async def serve():
    async with running(settings, make_logger("json", "error")) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        async with turnout_client.AsyncClient(str(server.grpc)) as client:
            await client.predict("m", {"x": numpy.ones((1, 4), numpy.float32)}, timeout=100)

asyncio.run(serve())
print([name for name in sys.modules if name.partition(".")[0] == "opentelemetry"])
"""


def test_a_server_without_tracing_and_its_client_import_nothing_of_opentelemetry(publish_model, models) -> None:
    publish_model("m", "1.0.0", scaled(2))
    done = subprocess.run([sys.executable, "-c", _OFF, str(models)], capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


_WITHOUT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from turnout.__main__ import main
sys.argv = ["turnout", "serve", "--models", sys.argv[1], *(f"--{l}=127.0.0.1:0" for l in ("grpc", "http", "control"))]
main()
"""


def test_tracing_without_its_extra_is_an_error_that_says_how_to_get_it(models) -> None:
    environment = {"TURNOUT_TRACING__ENDPOINT": "http://127.0.0.1:4318", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(models)], capture_output=True, text=True, timeout=90, env=environment
    )
    assert done.returncode not in (0, None)
    assert "pip install 'turnout[otel]'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
