"""What an answer tells of its route, how a caller bends it, and what the metrics and the explainer say of it."""

import asyncio
import json
import random
import urllib.request

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from http2_client import CALL, Http2Client, message
from onnx_models import scaled
from routing_wire import ask, control_of, policy, put, read, scrape
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelReadyRequest, ModelReadyResponse
from turnout_proto.v1 import traffic_pb2 as pb
from wire import X, refusal, request, stub_of

pytestmark = pytest.mark.both_transports


@pytest.fixture(autouse=True)
def digests(publish_model) -> dict[str, str]:
    return {
        "1.0.0": publish_model("m", "1.0.0", scaled(1)),
        "1.1.0": publish_model("m", "1.1.0", scaled(2), release=False),
        "2.0.0": publish_model("m", "2.0.0", scaled(3)),
    }


def oip_request(selector: str = "") -> ModelInferRequest:
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4])
    return ModelInferRequest(model_name="m", model_version=selector, inputs=[tensor], raw_input_contents=[X.tobytes()])


def oip_of(channel: grpc.aio.Channel):
    from turnout_proto.oip.inference_pb2 import ModelInferResponse

    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=ModelInferRequest.SerializeToString,
        response_deserializer=ModelInferResponse.FromString,
    )


def http_post(server, path: str, headers: dict[str, str], body: dict | None = None) -> dict:
    body = json.dumps(body or {"inputs": {"x": X.tolist()}}).encode()
    call = urllib.request.Request(f"http://{server.http}{path}", body, headers)
    with urllib.request.urlopen(call, timeout=100) as answer:
        return json.load(answer)


async def test_every_answer_names_version_digest_role_and_epoch_and_so_does_its_trailing_metadata(
    start_server, digests
) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=1.0))
    for selector, version, role in (("", "1.1.0", "canary"), ("1.0.0", "1.0.0", "pinned"), ("2", "2.0.0", "pinned")):
        expected = {
            "x-turnout-version": version, "x-turnout-digest": digests[version],
            "x-turnout-role": role, "x-turnout-epoch": "1",
        }  # fmt: skip
        async with stub_of(server) as stub:
            call = stub.Predict(request("m", selector, x=X))
            answer = await call
            assert (answer.route.digest, answer.route.epoch) == (digests[version], 1)
            assert (read(answer).version, read(answer).role) == (version, role)
            assert expected.items() <= dict(await call.trailing_metadata()).items()
        async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
            call = oip_of(channel)(oip_request(selector))
            answer = await call
            assert answer.model_version == version
            assert answer.parameters["turnout_role"].string_param == role
            assert answer.parameters["turnout_epoch"].uint64_param == 1
            assert answer.parameters["turnout_digest"].string_param == digests[version]
            assert expected.items() <= dict(await call.trailing_metadata()).items()


async def test_over_http_too(start_server, digests) -> None:
    import asyncio

    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=1.0))
    body = await asyncio.to_thread(http_post, server, "/predict/m", {})
    assert (body["version"], body["role"], body["epoch"], body["digest"]) == ("1.1.0", "canary", 1, digests["1.1.0"])
    body = await asyncio.to_thread(http_post, server, "/predict/m", {"x-turnout-role": "baseline"})
    assert (body["version"], body["role"]) == ("1.0.0", "baseline")
    with pytest.raises(urllib.error.HTTPError) as caught:
        await asyncio.to_thread(http_post, server, "/predict/m", {"x-turnout-version": "2.0.0"})
    assert caught.value.code == 403
    caught.value.close()


async def test_a_key_is_the_same_key_in_a_header_of_http(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.5))
    keys = [f"{name}-{number}" for number in range(12) for name in ("user", "müller", "村上", "🚃")]
    met = [answer.version for answer in await ask(server, keys)]

    def over_http(path: str, version: str, keys: list[bytes]) -> list[str]:
        body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X.ravel().tolist()}]}
        found = []
        for key in keys:
            headers = {"x-routing-key": key.decode("latin-1")}  # urllib encodes it as Latin-1
            found.append(http_post(server, path, headers, body if path.startswith("/v2") else None)[version])
        return found

    for path, version in (("/predict/m", "version"), ("/v2/models/m/infer", "model_version")):
        assert await asyncio.to_thread(over_http, path, version, [key.encode() for key in keys]) == met
        # Keys in another encoding are keys, too: each has a slot of its own.
        others = [[name + b"%d" % number for number in range(24)] for name in (b"\xfc", b"\xf6")]
        one, other = [await asyncio.to_thread(over_http, path, version, keys) for keys in others]
        assert one != other


async def test_a_version_can_be_forced_only_from_configured_networks(start_server) -> None:
    closed = await start_server()
    open_ = await start_server(routing={"version_override_from": ["127.0.0.0/8", "::1"]})
    force = (("x-turnout-version", "1.1.0"),)
    async with stub_of(closed) as stub:
        error = await refusal(stub.Predict(request("m", x=X), metadata=force))
        assert error.code is grpc.StatusCode.PERMISSION_DENIED
        assert "x-turnout-version" in error.message
    async with stub_of(open_) as stub:
        answer = read(await stub.Predict(request("m", "2.0.0", x=np.ones_like(X)), metadata=force))
        assert (answer.version, answer.role, answer.factor) == ("1.1.0", "pinned", 2.0)
        malformed = (("x-turnout-version", "not a version"),)
        assert (await refusal(stub.Predict(request("m", x=X), metadata=malformed))).code.name == "INVALID_ARGUMENT"
    async with grpc.aio.insecure_channel(str(open_.grpc)) as channel:
        assert (await oip_of(channel)(oip_request(), metadata=force)).model_version == "1.1.0"
    async with grpc.aio.insecure_channel(str(closed.grpc)) as channel:
        assert (await refusal(oip_of(channel)(oip_request(), metadata=force))).code.name == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("metadata", "says"),
    [((("x-turnout-role", "canary"),), "expected baseline"), ((("x-routing-key", "k" * 1025),), "at most 1024 bytes")],
)
async def test_a_preference_that_is_none_is_refused(start_server, metadata, says: str) -> None:
    server = await start_server()
    async with stub_of(server) as stub:
        error = await refusal(stub.Predict(request("m", x=X), metadata=metadata))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in error.message
    # grpc.aio makes INTERNAL of a refusal that comes while a request is written to the stream.
    async with Http2Client(server.grpc.host, server.grpc.port) as client:
        answer = await client.call("/turnout.v1.PredictionService/PredictStream", message(b""), (*CALL, *metadata))
    assert answer.grpc_status == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_the_metrics_tell_weights_decisions_and_shares_as_the_clients_saw_them(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.25))
    answers = await ask(server, [""] * 400) + await ask(server, [""] * 40, "2.0.0")
    seen = await scrape(server)
    for version, role, desired in (("1.0.0", "baseline", 0.75), ("1.1.0", "canary", 0.25)):
        labels = ("model=m", f"role={role}", f"version={version}")
        count = sum(a.version == version for a in answers)
        assert seen["turnout_route_decisions_total", *labels] == count
        assert seen["turnout_requests_total", "code=OK", *labels] == count
        assert seen["turnout_traffic_share", *labels] == count / 400
        for kind in ("desired", "applied"):
            weight = seen["turnout_traffic_weight", f"kind={kind}", *labels]
            assert weight == pytest.approx(desired, abs=1e-4)
    assert seen["turnout_route_decisions_total", "model=m", "role=pinned", "version=2.0.0"] == 40


async def test_the_explainer_agrees_with_what_happens(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.4))
    draw = random.Random(7)
    async with control_of(server) as control:
        for _ in range(100):
            selector = draw.choice(["", "^1", "1", "2", "1.1.0", "latest", "*", "~1.0", "9", "stable"])
            key = f"user-{draw.randrange(50)}"
            explanation = await control.ExplainRoute(
                pb.ExplainRouteRequest(model="m", selector=selector, routing_key=key)
            )
            if explanation.refusal:
                assert selector in ("9", "stable")
                assert not explanation.chances
                continue
            (answer,) = await ask(server, [key], selector)
            (chance,) = explanation.chances
            assert (chance.route.version, chance.route.epoch, chance.chance) == (answer.version, answer.epoch, 1.0)
            assert explanation.steps[-1].finding == f"{answer.version} as {answer.role}"
        split = await control.ExplainRoute(pb.ExplainRouteRequest(model="m"))
        assert [(c.route.version, round(c.chance, 3)) for c in split.chances] == [("1.0.0", 0.6), ("1.1.0", 0.4)]
        before = (await scrape(server))["turnout_route_decisions_total", "model=m", "role=canary", "version=1.1.0"]
        await control.ExplainRoute(pb.ExplainRouteRequest(model="m"))
        after = (await scrape(server))["turnout_route_decisions_total", "model=m", "role=canary", "version=1.1.0"]
        assert before == after


async def test_questions_after_readiness_are_no_requests_that_traffic_is_split_by(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.25))
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        oip_ready = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=ModelReadyRequest.SerializeToString,
            response_deserializer=ModelReadyResponse.FromString,
        )
        for _ in range(7):
            answer = await health.Check(health_pb2.HealthCheckRequest(service="model:m"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert (await oip_ready(ModelReadyRequest(name="m"))).ready
            await ask(server, [""])
    async with control_of(server) as control:
        state = (await control.GetTraffic(pb.GetTrafficRequest(model="m"))).models[0]
    assert sum(share.decisions for share in state.shares) == 7
