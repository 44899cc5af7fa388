"""Requests to a real server become spans at a real collector: whose children, with what attributes and what status."""

import asyncio

import grpc
import httpx
import numpy as np
import pytest
from semver import Version

import shadow_wire
from held import held_runs
from onnx_models import look_up, scaled, slow
from otlp_receiver import Collector, Span, http_collector
from routing_wire import policy, put
from turnout.config import Runtime, Tracing
from turnout_proto.oip import inference_pb2 as oip
from turnout_proto.v1 import prediction_pb2 as pb
from wire import X, refusal, request, stub_of

pytestmark = pytest.mark.both_transports

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = (f"00-{TRACE}-{CALLER}-{flags}" for flags in ("01", "00"))
STEPS = ["decode", "route", "queue", "compute", "encode"]
THREADS = Runtime(inline_threshold_us=0, runners=1)
SERVICE = "turnout.v1.PredictionService"


@pytest.fixture
def collector():
    with http_collector() as running:
        yield running


@pytest.fixture
def traced(collector, start_server):
    """Starts a server that sends its spans to `collector`, soon."""

    async def start(ratio: float = 1.0, **settings):
        tracing = Tracing(endpoint=collector.endpoint, sample_ratio=ratio, interval_s=0.05)
        return await start_server(tracing=tracing, **settings)

    return start


def in_order(collector: Collector, parent: Span) -> list[Span]:
    return sorted(collector.children(parent), key=lambda span: STEPS.index(span.name))


@pytest.mark.parametrize("runtime", [Runtime(), THREADS], ids=["inline", "on a runner"])
async def test_a_request_is_a_span_with_a_child_for_each_step(publish_model, traced, collector, runtime) -> None:
    digest = publish_model("m", "1.2.0", scaled(2))
    server = await traced(runtime=runtime)
    async with stub_of(server) as stub:
        await stub.Predict(request("m", "^1", x=np.ones((3, 4), np.float32), request_id="r-1"))
    (span,) = await collector.requests(1)
    assert span.name == f"{SERVICE}/Predict"
    assert span.parent_id == ""
    assert not span.is_error
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/Predict",
        "rpc.response.status_code": "OK",
        "turnout.model": "m",
        "turnout.version": "1.2.0",
        "turnout.role": "pinned",
        "turnout.epoch": 0,
        "turnout.digest": digest,
        "turnout.selector": "^1",
        "turnout.request_id": "r-1",
        "turnout.batch.size": 3,
    }
    steps = in_order(collector, span)
    assert [step.name for step in steps] == STEPS
    assert {step.trace_id for step in steps} == {span.trace_id}
    assert steps[3].attributes == {"turnout.batch.size": 3, "turnout.batch.requests": 1}
    times = [span.message.start_time_unix_nano]
    for step in steps:
        times += [step.message.start_time_unix_nano, step.message.end_time_unix_nano]
    assert [*times, span.message.end_time_unix_nano] == sorted([*times, span.message.end_time_unix_nano])
    assert span.resource["service.name"] == "turnout"


async def test_a_request_that_waits_shows_where_it_waited(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", slow())
    server = await traced(runtime=THREADS)
    handle = server.services.catalog.snapshot.model("m").versions[Version.parse("1.0.0")].handle
    async with stub_of(server) as stub:
        with held_runs(server, "m"):  # they differ, so that they are not one batch
            calls = [asyncio.ensure_future(stub.Predict(request("m", x=X, n=np.array(n)))) for n in (6000, 6001)]
            async with asyncio.timeout(60):
                while (handle.inflight, handle.queue_depth) != (2, 1):
                    await asyncio.sleep(0.001)
        await asyncio.gather(*calls)
    times = []
    for span in await collector.requests(2):
        queue, compute = in_order(collector, span)[2:4]
        assert queue.message.end_time_unix_nano == compute.message.start_time_unix_nano
        times.append((queue.message.start_time_unix_nano, queue.message.end_time_unix_nano))
        times[-1] += (compute.message.end_time_unix_nano,)
    (_, _, first_ended), (came, began, _) = sorted(times, key=lambda one: one[1])
    assert came < first_ended <= began, "the second waited for the first's run"


async def test_a_callers_span_is_the_parent_and_its_decision_holds(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await traced(ratio=0.0)
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X))
        await stub.Predict(request("m", x=X), metadata=[("traceparent", NOT_SAMPLED)])
        await stub.Predict(request("m", x=X), metadata=[("traceparent", SAMPLED), ("tracestate", "v=1")])
    (span,) = await collector.requests(1)
    assert (span.trace_id, span.parent_id, span.message.trace_state) == (TRACE, CALLER, "v=1")
    assert span.message.flags & 0x301 == 0x301  # sampled, and the parent is known to be remote


async def test_a_caller_who_does_not_record_is_not_recorded(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await traced(ratio=1.0)
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X), metadata=[("traceparent", NOT_SAMPLED)])
        await stub.Predict(request("m", x=X, request_id="last"))
    (span,) = await collector.requests(1)
    assert span.attributes["turnout.request_id"] == "last"


async def test_about_the_share_that_is_set_is_traced(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await traced(ratio=0.25)
    async with stub_of(server) as stub:
        for _ in range(400):
            await stub.Predict(request("m", x=X))
        await stub.Predict(request("m", x=X), metadata=[("traceparent", SAMPLED)])
    await collector.wait(lambda spans: any(span.trace_id == TRACE for span in spans))
    assert 50 <= len(collector.server_spans) - 1 <= 160  # six standard deviations and more
    assert len({span.trace_id for span in collector.server_spans}) == len(collector.server_spans)


async def test_each_request_of_a_stream_is_a_span_of_its_own(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await traced()
    own_trace = "1" * 32
    async with stub_of(server) as stub:
        stream = stub.PredictStream(metadata=[("traceparent", SAMPLED)])
        await stream.write(pb.PredictStreamRequest(request=request("m", x=X, request_id="a")))
        await stream.write(
            pb.PredictStreamRequest(
                request=request("m", x=X, request_id="b"), traceparent=f"00-{own_trace}-{CALLER}-01"
            )
        )
        await stream.write(
            pb.PredictStreamRequest(
                request=request("m", x=X, request_id="c"), traceparent=f"00-{own_trace}-{CALLER}-00"
            )
        )
        await stream.write(pb.PredictStreamRequest(request=request("absent", x=X, request_id="d")))
        await stream.done_writing()
        assert len([answer async for answer in stream]) == 4
    spans = {span.attributes["turnout.request_id"]: span for span in await collector.requests(3)}
    assert {name: (span.trace_id, span.parent_id) for name, span in spans.items()} == {
        "a": (TRACE, CALLER),
        "b": (own_trace, CALLER),
        "d": (TRACE, CALLER),
    }
    assert spans["a"].name == f"{SERVICE}/PredictStream"
    assert spans["d"].attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert [step.name for step in in_order(collector, spans["b"])] == STEPS


async def test_requests_of_the_open_inference_protocol_are_traced(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await traced(runtime=THREADS)
    good = oip.ModelInferRequest(model_name="m", id="good")
    tensor = good.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    bad = oip.ModelInferRequest(model_name="m", id="bad")
    name = "inference.GRPCInferenceService"
    kinds = oip.ModelInferRequest.SerializeToString, oip.ModelStreamInferResponse.FromString
    metadata = [("traceparent", SAMPLED)]
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        await channel.unary_unary(f"/{name}/ModelInfer", kinds[0])(good, metadata=metadata)
        stream = channel.stream_stream(f"/{name}/ModelStreamInfer", *kinds)(metadata=metadata)
        for item in (good, bad):
            await stream.write(item)
        await stream.done_writing()
        assert len([answer async for answer in stream]) == 2
    spans = await collector.requests(3)
    assert {(span.trace_id, span.parent_id) for span in spans} == {(TRACE, CALLER)}
    outcomes = {(span.attributes["rpc.method"], span.attributes["rpc.response.status_code"]) for span in spans}
    assert outcomes == {
        (f"{name}/ModelInfer", "OK"),
        (f"{name}/ModelStreamInfer", "OK"),
        (f"{name}/ModelStreamInfer", "INVALID_ARGUMENT"),
    }
    for span in spans:
        steps = [step.name for step in in_order(collector, span)]
        assert steps == (STEPS if span.attributes["rpc.response.status_code"] == "OK" else STEPS[:2])


async def test_an_http_request_is_a_span_by_its_route(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await traced(ratio=0.0)
    headers = {"traceparent": SAMPLED}
    async with httpx.AsyncClient(base_url=f"http://{server.http}", headers=headers) as client:
        assert (await client.post("/predict/m/^1", json={"inputs": {"x": [[1, 2, 3, 4]]}})).status_code == 200
        assert (await client.post("/predict/m", json={"inputs": {"x": "words"}})).status_code == 400
    good, bad = await collector.requests(2)
    assert good.name == "POST /predict/{model}/{selector}"
    assert (good.trace_id, good.parent_id) == (TRACE, CALLER)
    expected = {
        "http.request.method": "POST",
        "http.route": "/predict/{model}/{selector}",
        "url.scheme": "http",
        "url.path": "/predict/m/^1",
        "http.response.status_code": 200,
        "turnout.version": "1.0.0",
    }
    assert good.attributes.items() >= expected.items()
    assert [step.name for step in in_order(collector, good)] == STEPS
    assert bad.attributes["http.response.status_code"] == 400
    assert bad.attributes["turnout.error"] == "InvalidTensor"
    assert not bad.is_error


async def test_a_request_of_the_open_inference_protocol_over_http_is_a_span_like_any(
    publish_model, traced, collector
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await traced(ratio=0.0)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    async with httpx.AsyncClient(base_url=f"http://{server.http}", headers={"traceparent": SAMPLED}) as client:
        assert (await client.post("/v2/models/m/versions/%5E1/infer", json=body)).status_code == 200
        assert (await client.get("/v2/models/m")).status_code == 200, "what runs nothing is not a span"
    (span,) = await collector.requests(1)
    assert span.name == "POST /v2/models/{model}/versions/{selector}/infer"
    assert (span.trace_id, span.parent_id, span.attributes["turnout.version"]) == (TRACE, CALLER, "1.0.0")
    assert [step.name for step in in_order(collector, span)] == STEPS


async def test_what_is_the_servers_fault_is_an_error_and_what_is_the_callers_is_not(
    publish_model, traced, collector
) -> None:
    publish_model("m", "1.0.0", look_up())
    server = await traced()
    async with stub_of(server) as stub:
        await refusal(stub.Predict(request("m", index=np.array([999]), request_id="model")))
        await refusal(stub.Predict(request("m", index=np.array(["x"]), request_id="caller")))
        await refusal(stub.Predict(request("m", "^^", index=np.array([1]), request_id="selector")))
        await refusal(stub.Predict(request("m", index=np.array([1]), request_id="x" * 200)))
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        assert (await client.post("/predict/m", json={"inputs": {"index": [999]}})).status_code == 500
    spans = await collector.requests(5)
    grpc_spans = {span.attributes["turnout.request_id"][:8]: span for span in spans if "rpc.method" in span.attributes}
    failed = grpc_spans["model"]
    assert failed.is_error
    assert failed.attributes["error.type"] == failed.attributes["rpc.response.status_code"] == "INTERNAL"
    assert failed.attributes["turnout.error"] == "ModelFailure"
    assert failed.attributes["turnout.version"] == "1.0.0"
    assert "the model raised" in failed.message.status.message
    for name, error in (("caller", "InvalidTensor"), ("selector", "InvalidSelector"), ("xxxxxxxx", "InvalidRequest")):
        span = grpc_spans[name]
        assert not span.is_error
        assert "error.type" not in span.attributes
        assert span.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
        assert span.attributes["turnout.error"] == error
    (http,) = [span for span in spans if "http.route" in span.attributes]
    assert http.is_error
    assert http.attributes["error.type"] == "500"


async def test_bytes_that_are_no_message_are_traced_as_what_they_were_answered_with(
    publish_model, traced, collector
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await traced()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"/{SERVICE}/Predict")(b"\xff\xff")
    (span,) = await collector.requests(1)
    assert span.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert collector.children(span) == []


async def test_a_request_that_is_late_or_given_up_ends_its_span(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", slow())
    server = await traced(runtime=THREADS)
    long = {"x": X, "n": np.array(2)}
    with held_runs(server, "m"):
        async with stub_of(server) as stub:
            running = stub.Predict(request("m", **long, request_id="running"))
            handle = server.services.catalog.snapshot.model("m").versions[Version.parse("1.0.0")].handle
            while handle.inflight < 1:
                await asyncio.sleep(0.01)
            late = await refusal(stub.Predict(request("m", **long, request_id="late"), timeout=2.0))
            assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
            running.cancel()
        spans = {span.attributes["turnout.request_id"]: span for span in await collector.requests(2)}
    assert spans["late"].attributes["rpc.response.status_code"] in ("DEADLINE_EXCEEDED", "CANCELLED")
    assert spans["running"].attributes["rpc.response.status_code"] == "CANCELLED"
    assert not spans["running"].is_error


async def test_a_shadow_is_a_trace_of_its_own_with_a_link_to_the_request(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(2), release=False)
    server = await traced(shadow={**shadow_wire.PATIENT, "isolation": "thread"})
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    live = await shadow_wire.predict(server, [request("m", x=X, request_id="r-1")])
    assert len(live.answers) == 1
    spans = await collector.wait(lambda found: any(span.name == "shadow" for span in found))
    (copy,) = [span for span in spans if span.name == "shadow"]
    (span,) = await collector.requests(1)
    assert copy.parent_id == ""
    assert copy.trace_id != span.trace_id
    (link,) = copy.message.links
    assert (link.trace_id, link.span_id) == (span.message.trace_id, span.message.span_id)
    assert copy.message.start_time_unix_nano > span.message.start_time_unix_nano
    assert copy.attributes == {
        "turnout.model": "m",
        "turnout.version": "1.1.0",
        "turnout.role": "shadow",
        "turnout.epoch": 1,
        "turnout.shadow.baseline": "1.0.0",
        "turnout.shadow.outcome": "agreed",
        "turnout.request_id": "r-1",
    }
    assert not copy.is_error
    assert all(child.name != "shadow" for child in collector.children(span))


async def test_a_copy_of_a_request_that_is_not_traced_is_not_either(publish_model, traced, collector) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(3), release=False)
    server = await traced(ratio=0.0, shadow={**shadow_wire.PATIENT, "isolation": "thread"})
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    await shadow_wire.predict(server, shadow_wire.numbered(3, x=X))
    await shadow_wire.settled(server, "1.1.0", 3)
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X), metadata=[("traceparent", SAMPLED)])
    spans = await collector.wait(lambda found: any(span.name == "shadow" for span in found))
    assert len([span for span in spans if span.name == "shadow"]) == 1
    (copy,) = [span for span in spans if span.name == "shadow"]
    assert copy.attributes["turnout.shadow.outcome"] == "disagreed"
