"""A scrape in OpenMetrics: what the text format says, with an example of a traced request in the latency buckets."""

import asyncio
import contextlib
import re
import subprocess
import time

import httpx
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from debian import needs, program
from onnx_models import look_up, scaled
from otlp_receiver import http_collector
from turnout.app.server import Running
from turnout.config import ModelOverrides, Tracing
from wire import X, refusal, request, stub_of

PROMTOOL = program("prometheus", "promtool")

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
LATENCIES = [f"turnout_{what}_duration_seconds" for what in ("request", "queue", "compute")]


async def scraped(server: Running, accept: str = "") -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    return answer


@pytest.fixture
def collector():
    with http_collector() as running:
        yield running


@pytest.fixture
def traced(collector, publish_model, start_server):
    """Starts a server of one model that traces every request."""

    async def start(ratio: float = 1.0) -> Running:
        publish_model("m", "1.0.0", scaled(2))
        publish_model("fails", "1.0.0", look_up())
        tracing = Tracing(endpoint=collector.endpoint, sample_ratio=ratio, interval_s=0.05)
        return await start_server(tracing=tracing, model={"m": ModelOverrides(slo_ms=(0.0001,))})

    return start


async def test_every_bucket_example_is_a_trace_that_was_exported(traced, collector) -> None:
    server = await traced()
    async with stub_of(server) as stub:
        for _ in range(5):
            await stub.Predict(request("m", x=X))
        await refusal(stub.Predict(request("fails", index=np.array([999]))))
    text = (await scraped(server, OPENMETRICS)).text
    found = [
        (family.name, sample)
        for family in read_openmetrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert {name for name, _ in found} == set(LATENCIES)
    traces = {span.trace_id for span in await collector.requests(6)}
    for _, sample in found:
        assert sample.name.endswith("_bucket")
        assert set(sample.exemplar.labels) == {"trace_id"}
        assert sample.exemplar.labels["trace_id"] in traces
        assert sample.exemplar.value <= float(sample.labels["le"])
        assert abs(float(sample.exemplar.timestamp) - time.time()) < 60
    failed = [sample for name, sample in found if sample.labels["model"] == "fails"]
    assert [sample.name for sample in failed] == ["turnout_request_duration_seconds_bucket"]


async def test_a_request_that_is_not_traced_is_no_example(traced) -> None:
    server = await traced(ratio=0.0)
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X))
    text = (await scraped(server, OPENMETRICS)).text
    assert " # {" not in text
    assert 'turnout_request_duration_seconds_count{model="m"' in text


async def test_both_forms_say_the_same(traced) -> None:
    server = await traced()
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X))

    def samples(read, text: str) -> dict:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in read(text)
            for sample in family.samples
            if sample.name.startswith("turnout_") and not re.search("tick|memory|spans", sample.name)  # they move on
        }

    plain, open_ = await scraped(server), await scraped(server, OPENMETRICS)
    wanted = samples(read_text, plain.text)
    assert samples(read_openmetrics, open_.text) == wanted
    assert len(wanted) > 100
    assert (plain.headers["content-type"], open_.headers["content-type"]) == (
        "text/plain; version=0.0.4; charset=utf-8",
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
    )
    assert " # {" not in plain.text
    assert "# EOF" not in plain.text


async def test_a_scraper_that_hangs_up_is_no_trouble_and_others_get_everything(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    for number in range(200):
        server.parts.base.metrics.version("m", f"2.{number}.0", "").role("baseline").answered(0.01, 0.0, 0.01)

    for read in (1, 100_000):
        reader, writer = await asyncio.open_connection(server.http.host, server.http.port, limit=2**12)
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: {server.http}\r\n\r\n".encode())
        assert (await reader.readexactly(read)).startswith(b"H")
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        head = await client.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        answers = await asyncio.gather(*(client.get("/metrics", timeout=60) for _ in range(3)))
        for answer in answers:
            assert answer.text.count('_request_duration_seconds_count{model="m",role="baseline",version="2.') == 200
            assert answer.text.endswith("\n")
    assert server.parts.base.metrics.faults.unexpected["http"] == 0


async def test_openmetrics_rules_that_parsers_let_pass(traced) -> None:
    server = await traced()
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X))
    text = (await scraped(server, OPENMETRICS)).text
    lines = text.split("\n")
    assert lines[-2:] == ["# EOF", ""]
    assert text.count("# EOF") == 1
    assert "" not in lines[:-1]
    kinds = dict(line.split()[2:] for line in lines if line.startswith("# TYPE turnout_"))
    assert not any(name.endswith("_total") for name, kind in kinds.items())
    for line in lines:
        if line.startswith("# UNIT"):
            _, _, name, unit = line.split()
            assert name.endswith(f"_{unit}")
        if found := re.match(r"(turnout_\w+)_total[ {]", line):
            assert kinds[found[1]] == "counter"
        for bound in re.findall(r'le="([^"]+)"', line):
            assert bound == "+Inf" or "." in bound or "e" in bound


@needs(PROMTOOL, "prometheus")
async def test_promtool_takes_the_text_format(traced) -> None:
    text = (await scraped(await traced())).content
    check = [PROMTOOL, "check", "metrics"]
    done = await asyncio.to_thread(subprocess.run, check, input=text, capture_output=True, timeout=30)
    assert done.returncode in (0, 3), done.stderr.decode()  # 3: it only has style to complain of
    assert b"error while linting" not in done.stderr
