"""Bytes that are no message, and errors that nobody foresaw, on every method of every service."""

import json
import re
from collections import Counter

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha import reflection_pb2

from fuzzing import methods_of_all_services
from onnx_models import scaled
from turnout.routing.router import PolicyRouter
from turnout.rpc import codec
from turnout.rpc.control.traffic import TrafficMethods
from turnout.rpc.oip import exchange
from turnout.rpc.registry.fetches import FetchMethods
from turnout.rpc.registry.uploads import UploadMethods
from turnout.rpc.registry.versions import PublishedVersionMethods
from turnout.rpc.standard_services.health import HealthServicer
from turnout.rpc.standard_services.reflection import ReflectionServicer
from turnout.web import predict
from turnout.web.oip import inference as rest
from turnout_proto import tensors
from turnout_proto.oip import inference_pb2 as oip
from turnout_proto.v1 import catalog_pb2, prediction_pb2, registry_pb2, traffic_pb2
from wire import X, request

pytestmark = pytest.mark.both_transports

one_server = pytest.mark.asyncio(loop_scope="module")
"""Of tests that change nothing on the server which they share."""

SECRET = "KeyError: /secret/of/the/server"


async def call(
    server, path: str, method: MethodDescriptor | tuple[bool, bool], payload: bytes, *, control: bool = True
):
    """Calls a method, whatever its kind; returns its answers."""
    streams = method if isinstance(method, tuple) else (method.client_streaming, method.server_streaming)
    sent = iter([payload]) if streams[0] else payload
    async with grpc.aio.insecure_channel(str(server.control if control else server.grpc)) as channel:
        if streams == (False, False):
            return [await channel.unary_unary(path)(sent, timeout=100)]
        if streams == (True, False):
            return [await channel.stream_unary(path)(sent, timeout=100)]
        make = channel.stream_stream if streams[0] else channel.unary_stream
        return [answer async for answer in make(path)(sent, timeout=100)]


@pytest.fixture(scope="module")
def one_model(publish_for_module) -> None:
    publish_for_module("m", "1.0.0", scaled(2))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(one_model, start_server_for_module):
    return await start_server_for_module(log={"level": "error"})


def unexpected(server) -> Counter[str]:
    """How many errors nobody foresaw so far, by where."""
    return Counter(server.parts.base.metrics.faults.unexpected)


async def malformed(server) -> Counter[str]:
    """How many messages could not be parsed so far, by service, as it is scraped."""
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        metrics = (await client.get("/metrics")).text
    found = re.findall(r"^turnout_malformed_messages_total\{service=\"(.*)\"\} (.*)$", metrics, re.MULTILINE)
    return Counter({service: int(float(count)) for service, count in found})


@one_server
@pytest.mark.parametrize("control", [False, True], ids=["data", "control"])
@pytest.mark.parametrize(
    "payload", [b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x64short", b"\x0a\x02\xff\xfe"]
)
async def test_bytes_that_are_no_message_are_the_callers_fault_on_every_method(server, payload, control) -> None:
    asked: set[str] = set()
    before = await malformed(server)
    for path, method, _, on_control_only in methods_of_all_services():
        name = path.rpartition("/")[2]
        service = path[1:].rpartition("/")[0]
        if on_control_only and not control:
            continue
        if payload.startswith(b"\x0a") and not has_text_first(method):
            continue
        code, text = await outcome_of(call(server, path, method, payload, control=control))
        expected = "OK" if name in ("PredictStream", "ModelStreamInfer") else "INVALID_ARGUMENT"
        assert (code, "cannot be parsed" in text) == (expected, True), path
        asked.add(service)
    assert set(await malformed(server) - before) == asked
    assert len(asked) >= (5 if payload.startswith(b"\xff") else 3)


async def outcome_of(calling) -> tuple[str, str]:
    """Returns the code that a call ended with, and its message, or what its first answer holds."""
    try:
        return "OK", (await calling)[0].decode(errors="replace")
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""


def has_text_first(method: MethodDescriptor) -> bool:
    """Tells whether field 1 of the request is text, so that bytes which are none break it."""
    field = method.input_type.fields_by_number.get(1)
    return field is not None and field.type == field.TYPE_STRING


def boom(*_: object, **__: object) -> None:
    raise RuntimeError(SECRET)


V1 = request("m", x=X, request_id="r").SerializeToString()
ITEM = prediction_pb2.PredictStreamRequest(request=request("m", x=X, request_id="r")).SerializeToString()


def infer() -> bytes:
    message = oip.ModelInferRequest(model_name="m", raw_input_contents=[X.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return message.SerializeToString()


BREAKS = {
    "v1 decoding": (tensors, "decode", "/turnout.v1.PredictionService/Predict", (False, False), V1),
    "v1 encoding": (codec, "response", "/turnout.v1.PredictionService/Predict", (False, False), V1),
    "v1 routing": (PolicyRouter, "route", "/turnout.v1.PredictionService/Predict", (False, False), V1),
    "oip decoding": (exchange, "decode_inputs", "/inference.GRPCInferenceService/ModelInfer", (False, False), infer()),
    "oip encoding": (exchange, "unary_answer", "/inference.GRPCInferenceService/ModelInfer", (False, False), infer()),
    "oip ready": (PolicyRouter, "route", "/inference.GRPCInferenceService/ModelReady", (False, False), b""),
    "catalog": (PolicyRouter, "describe", "/turnout.v1.CatalogService/GetVersion", (False, False),
                catalog_pb2.GetVersionRequest(model="m").SerializeToString()),
    "health": (HealthServicer, "_status", "/grpc.health.v1.Health/Check", (False, False), b""),
    "health watch": (HealthServicer, "_status", "/grpc.health.v1.Health/Watch", (False, True), b""),
    "control": (TrafficMethods, "_state", "/turnout.v1.ControlService/GetTraffic", (False, False),
                traffic_pb2.GetTrafficRequest(model="m").SerializeToString()),
    "registry": (PublishedVersionMethods, "_described", "/turnout.v1.RegistryService/DescribeVersion", (False, False),
                 b""),
    "registry in": (UploadMethods, "_next", "/turnout.v1.RegistryService/UploadFiles", (True, False), b""),
    "registry out": (FetchMethods, "_fetch", "/turnout.v1.RegistryService/FetchVersion", (False, True),
                     registry_pb2.FetchVersionRequest(model="m", version="1.0.0").SerializeToString()),
    "reflection": (ReflectionServicer, "_answer",
                   "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", (True, True),
                   reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()),
}  # fmt: skip


@one_server
@pytest.mark.parametrize("place", BREAKS)
async def test_an_error_that_nobody_foresaw_is_internal_and_tells_nothing_of_itself(server, monkeypatch, place) -> None:
    owner, name, path, streams, payload = BREAKS[place]
    monkeypatch.setattr(owner, name, boom)
    before = unexpected(server)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(server, path, streams, payload)
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "see the server's log" in raised.value.details()
    assert "secret" not in str(raised.value)
    assert "RuntimeError" not in str(raised.value)
    assert (unexpected(server) - before).total() == 1


@one_server
async def test_an_item_whose_answer_cannot_be_encoded_fails_alone(server, monkeypatch) -> None:
    response = codec.response

    def fails_for_one(call, result):
        return boom() if call.request_id == "bad" else response(call, result)

    monkeypatch.setattr(codec, "response", fails_for_one)
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        items = [
            prediction_pb2.PredictStreamRequest(request=request("m", x=X, request_id=name)).SerializeToString()
            for name in ("bad", "good")
        ]
        stream = channel.stream_stream("/turnout.v1.PredictionService/PredictStream")(iter(items), timeout=100)
        answers = [prediction_pb2.PredictStreamResponse.FromString(answer) async for answer in stream]
    by_id = {answer.request_id: answer for answer in answers}
    assert by_id["bad"].error.code == grpc.StatusCode.INTERNAL.value[0]
    assert SECRET not in by_id["bad"].error.message
    assert by_id["good"].response.outputs


@one_server
async def test_an_item_of_the_open_inference_protocol_fails_alone(server, monkeypatch) -> None:
    answer_as_before, failed = exchange.stream_answer, []

    def fails_once(*args):
        if not failed:
            failed.append(True)
            boom()
        return answer_as_before(*args)

    monkeypatch.setattr(exchange, "stream_answer", fails_once)
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        path = "/inference.GRPCInferenceService/ModelStreamInfer"
        stream = channel.stream_stream(path)(iter([infer(), infer()]), timeout=100)
        bad, good = [oip.ModelStreamInferResponse.FromString(answer) async for answer in stream]
    assert "see the server's log" in bad.error_message
    assert not good.error_message


@one_server
@pytest.mark.parametrize(
    ("owner", "name", "path", "body"),
    [
        (predict, "to_nested", "/predict/m", {"inputs": {"x": X.tolist()}}),
        (predict, "from_nested", "/predict/m", {"inputs": {"x": X.tolist()}}),
        (rest, "read_inputs", "/v2/models/m/infer", {"inputs": []}),
        (rest, "inference_answer", "/v2/models/m/infer",
         {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}),
    ],
)  # fmt: skip
async def test_over_http_it_is_a_500_that_tells_nothing_of_itself(server, monkeypatch, owner, name, path, body) -> None:
    monkeypatch.setattr(owner, name, boom)
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        answer = await client.post(path, content=json.dumps(body))
    assert answer.status_code == 500
    assert "see the server's log" in json.dumps(answer.json())
    assert "secret" not in answer.text
    assert "RuntimeError" not in answer.text


@pytest.mark.parametrize("path", ["/metrics", "/v2/models/m", "/readyz"])
async def test_other_pages_tell_nothing_of_it_either(publish_model, start_server, monkeypatch, path) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(log={"level": "error"})
    monkeypatch.setattr(PolicyRouter, "describe", boom)
    monkeypatch.setattr(server.parts.base.metrics, "scrape", boom)
    monkeypatch.setattr(type(server.services.catalog.snapshot), "complete", property(boom))
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        answer = await client.get(path)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert "see the server's log" in (error if path.startswith("/v2/") else error["message"])
    assert server.parts.base.metrics.faults.unexpected["http"] == 1


@one_server
async def test_a_client_that_leaves_a_stream_is_no_error(server) -> None:
    before = unexpected(server)
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        await watch.read()
        watch.cancel()
        stream = channel.stream_stream("/turnout.v1.PredictionService/PredictStream")()
        await stream.write(ITEM)
        await stream.read()
        stream.cancel()
        await call(server, "/turnout.v1.PredictionService/Predict", (False, False), V1)
    assert unexpected(server) == before
