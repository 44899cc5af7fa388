"""Each bound on what a request may hold, on each protocol: the caller's fault, told with the field and the limit."""

import gzip
import json
import struct
import threading
from dataclasses import replace

import grpc
import httpx
import numpy as np
import orjson
import pytest
import pytest_asyncio
from onnx import TensorProto

from onnx_models import identity, scaled, string_identity
from turnout.config import Routing
from turnout.routing.request_metadata import PreferenceReader
from turnout.rpc import codec as rpc_codec
from turnout.rpc.exchange import Endpoint
from turnout.rpc.oip import exchange
from turnout.rpc.parsing import reader
from turnout.rpc.parsing.templates import Templates
from turnout.rpc.prediction import FIELDS, PredictExchange
from turnout.rpc.transport.port import RpcCall, StatusError
from turnout.serving.inputs.limits import DEFAULT_LIMITS
from turnout.web import predict
from turnout.web.oip import inference as rest_inference
from turnout_proto import tensors
from turnout_proto.oip import inference_pb2 as oip
from turnout_proto.v1 import prediction_pb2 as pb
from wire import X, outputs_of

pytestmark = pytest.mark.both_transports

one_server = pytest.mark.asyncio(loop_scope="module")
"""Of tests that change nothing on the server which they share."""

LIMITS = {"max_tensors": 4, "max_rank": 3, "max_name_bytes": 64, "max_elements": 1000, "max_strings": 500}
LONG = "n" * 65
RAW = (X.tobytes(),)
PAIRS = (
    "/turnout.v1.PredictionService/Predict",
    "/turnout.v1.PredictionService/PredictStream",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
)


def tensor(name="x", shape=(1, 4), **fields):
    return pb.Tensor(name=name, data_type=pb.DATA_TYPE_FLOAT32, shape=shape, **fields)


def strings(count):
    return tensors.encode("x", np.full(count, "a", object))


V1 = {
    "tensors": (pb.PredictRequest(model="f", inputs=[tensor(str(n)) for n in range(5)]), "inputs"),
    "outputs": (pb.PredictRequest(model="f", inputs=[tensors.encode("x", X)], outputs=["y"] * 5), "outputs"),
    "rank": (pb.PredictRequest(model="f", inputs=[tensor(shape=[1] * 4, raw=bytes(4))]), "inputs[0].shape"),
    "a rank of thousands": (pb.PredictRequest(model="f", inputs=[tensor(shape=[1] * 60_000)]), "inputs[0].shape"),
    "input name": (pb.PredictRequest(model="f", inputs=[tensor(LONG)]), "inputs[0].name"),
    "output name": (pb.PredictRequest(model="f", inputs=[tensors.encode("x", X)], outputs=["y", LONG]), "outputs[1]"),
    "model name": (pb.PredictRequest(model=LONG, inputs=[tensors.encode("x", X)]), "model"),
    "selector": (pb.PredictRequest(model="f", version=LONG, inputs=[tensors.encode("x", X)]), "version"),
    "strings": (pb.PredictRequest(model="s", inputs=[strings(501)]), "inputs[0].strings"),
    "strings of two inputs": (
        pb.PredictRequest(model="s", inputs=[strings(300), pb.Tensor(name="z", strings=[b"a"] * 300)]),
        "inputs[1].strings",
    ),
    "200,000 output names": (pb.PredictRequest(model="f", outputs=[""] * 200_000), "outputs"),
    "200,000 strings": (pb.PredictRequest(model="s", inputs=[strings(200_000)]), "inputs.strings"),
    "200,000 dimensions": (pb.PredictRequest(model="f", inputs=[tensor(shape=[1] * 200_000)]), "inputs.shape"),
}


def infer(model="f", name="x", datatype="FP32", shape=(1, 4), raw=RAW, outputs=(), **contents):
    request = oip.ModelInferRequest(model_name=model, raw_input_contents=raw)
    one = request.inputs.add(name=name, datatype=datatype, shape=shape)
    for key, values in contents.items():
        getattr(one.contents, key).extend(values)
    for output in outputs:
        request.outputs.add(name=output)
    return request


def many_inputs(count):
    request = infer()
    for n in range(count - 1):
        request.inputs.add(name=str(n), datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(X.tobytes())
    return request


def many_parameters():
    request = infer()
    for n in range(257):
        request.parameters[str(n)].int64_param = n
    return request


OIP = {
    "tensors": (many_inputs(5), "inputs"),
    "outputs": (infer(outputs=["y"] * 5), "outputs"),
    "rank": (infer(shape=[1] * 4, raw=[bytes(4)]), "inputs[0].shape"),
    "input name": (infer(name=LONG), "inputs[0].name"),
    "output name": (infer(outputs=[LONG]), "outputs[0].name"),
    "model name": (infer(LONG), "model_name"),
    "parameters": (many_parameters(), "parameters"),
    "strings": (infer("s", datatype="BYTES", shape=[501], raw=(), bytes_contents=[b"a"] * 501), "inputs[0].contents"),
    "raw strings": (
        infer("s", datatype="BYTES", shape=[501], raw=[struct.pack("<I", 0) * 501]), "raw_input_contents[0]"),
    "many raw strings": (
        infer("s", datatype="BYTES", shape=[50_000], raw=[struct.pack("<I", 0) * 50_000]), "raw_input_contents[0]"),
    "elements": (infer("i", datatype="INT64", shape=[1001], raw=(), int64_contents=[1] * 1001), "inputs[0].contents"),
    "200,000 elements": (
        infer("i", datatype="INT64", shape=[200_000], raw=(), int64_contents=[1] * 200_000), "inputs.contents"),
    "200,000 output names": (infer(outputs=[""] * 200_000), "outputs"),
    "200,000 strings": (
        infer("s", datatype="BYTES", shape=[200_000], raw=(), bytes_contents=[b""] * 200_000), "inputs.contents"),
}  # fmt: skip


@pytest.fixture(scope="module")
def all_models(publish_for_module) -> None:
    publish_for_module("f", "1.0.0", scaled(2))
    publish_for_module("s", "1.0.0", string_identity())
    publish_for_module("i", "1.0.0", identity(TensorProto.INT64, ["n"]))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(all_models, start_server_for_module):
    return await start_server_for_module(limits=LIMITS, log={"level": "error"})


async def answered(server, method, payload):
    """Calls a method, by stream or not; returns the code and the message of what came."""
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        try:
            if "Stream" not in method:
                await channel.unary_unary(method)(payload, timeout=100)
                return "OK", ""
            (answer,) = [one async for one in channel.stream_stream(method)(iter([payload]), timeout=100)]
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()
    if "PredictStream" in method:
        error = pb.PredictStreamResponse.FromString(answer).error
        return {0: "OK", 3: "INVALID_ARGUMENT"}.get(error.code, str(error.code)), error.message
    message = oip.ModelStreamInferResponse.FromString(answer).error_message
    return "INVALID_ARGUMENT" if message else "OK", message


@one_server
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_v1_refuses_what_is_beyond_the_limits(server, stream) -> None:
    for case, (message, field) in V1.items():
        message.request_id = "r"
        payload = message.SerializeToString()
        if stream:
            payload = pb.PredictStreamRequest(request=message).SerializeToString()
        code, text = await answered(server, PAIRS[stream], payload)
        assert code == "INVALID_ARGUMENT", (case, text)
        assert field.replace("inputs.", "request.inputs." if stream else "inputs.") in text, (case, text)
        assert "expected at most" in text, (case, text)


@one_server
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_open_inference_protocol_refuses_what_is_beyond_the_limits(server, stream) -> None:
    for case, (message, field) in OIP.items():
        code, text = await answered(server, PAIRS[2 + stream], message.SerializeToString())
        assert (code, field in text, "expected at most" in text) == ("INVALID_ARGUMENT", True, True), (case, text)


def rest(**fields):
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **fields}]}


REST = {
    "tensors": ("/v2/models/f/infer", {"inputs": rest()["inputs"] * 5}, "inputs"),
    "outputs": ("/v2/models/f/infer", rest() | {"outputs": [{"name": "y"}] * 5}, "outputs"),
    "rank": ("/v2/models/f/infer", rest(shape=[1] * 4), "inputs[0].shape"),
    "name": ("/v2/models/f/infer", rest(name=LONG), "inputs[0].name"),
    "output name": ("/v2/models/f/infer", rest() | {"outputs": [{"name": LONG}]}, "outputs[0].name"),
    "parameters": ("/v2/models/f/infer", rest() | {"parameters": {str(n): n for n in range(257)}}, "parameters"),
    "elements": ("/v2/models/f/infer", rest(shape=[50_000], data=[1] * 50_000), "body"),
    "strings": (
        "/v2/models/s/infer",
        rest(datatype="BYTES", shape=[900], data=["" * 90] * 900 + ["x" * 70_000]),
        "inputs",
    ),
    "predict: tensors": ("/predict/f", {"inputs": {str(n): 1 for n in range(5)}}, "inputs"),
    "predict: outputs": ("/predict/f", {"inputs": {}, "outputs": ["y"] * 5}, "outputs"),
    "predict: rank": ("/predict/f", {"inputs": {"x": [[[[1]]]]}}, "inputs.x"),
    "predict: name": ("/predict/f", {"inputs": {}, "outputs": [LONG]}, "outputs[0]"),
    "predict: elements": ("/predict/f", {"inputs": {"x": [[0] * 50_000]}}, "body"),
    "predict: lists": ("/predict/f", {"inputs": {"x": [[]] * 300_000}}, "body"),
}


@one_server
async def test_http_refuses_what_is_beyond_the_limits(server) -> None:
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        for case, (path, document, field) in REST.items():
            plain = orjson.dumps(document)
            for body, headers in ((plain, {}), (gzip.compress(plain, 1), {"content-encoding": "gzip"})):
                answer = await client.post(path, content=body, headers=headers)
                assert (answer.status_code, field in answer.text) == (400, True), (case, answer.text[:300])
        too_long = b'{"inputs": {"x": [[' + b" " * (16 << 20) + b"1, 2, 3, 4]]}}"
        for path in ("/predict/f", "/v2/models/f/infer"):
            for body, headers in ((too_long, {}), (gzip.compress(too_long), {"content-encoding": "gzip"})):
                answer = await client.post(path, content=body, headers=headers)
                assert (answer.status_code, "limits.http_max_json_bytes" in answer.text) == (400, True)


async def test_what_is_within_the_limits_is_answered_whether_it_is_small_or_large(publish_model, start_server) -> None:
    publish_model("f", "1.0.0", identity(TensorProto.FLOAT, ["n", 4]))
    publish_model("s", "1.0.0", string_identity())
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        for rows in (1, 4000, 50_000, 400_000):  # in place, in place after a look, in a thread, and of 6 MB
            x = np.random.default_rng(rows).random((rows, 4), np.float32)
            v1 = pb.PredictRequest(model="f", request_id="r", inputs=[tensors.encode("x", x)])
            options = [("grpc.max_receive_message_length", -1)]
            async with grpc.aio.insecure_channel(str(server.grpc), options=options) as large:
                answer = await large.unary_unary(PAIRS[0])(v1.SerializeToString())
                got = outputs_of(pb.PredictResponse.FromString(answer))["y"]
                np.testing.assert_array_equal(got, x)
                item = pb.PredictStreamRequest(request=v1).SerializeToString()
                (answer,) = [one async for one in large.stream_stream(PAIRS[1])(iter([item]))]
                got = outputs_of(pb.PredictStreamResponse.FromString(answer).response)["y"]
                np.testing.assert_array_equal(got, x)
                for request in (infer(shape=x.shape, raw=[x.tobytes()]),
                                infer(shape=x.shape, raw=(), fp32_contents=x.ravel())):  # fmt: skip
                    answer = await large.unary_unary(PAIRS[2])(request.SerializeToString())
                    assert oip.ModelInferResponse.FromString(answer).raw_output_contents[0] == x.tobytes()
                    (answer,) = [
                        one async for one in large.stream_stream(PAIRS[3])(iter([request.SerializeToString()]))
                    ]
                    streamed = oip.ModelStreamInferResponse.FromString(answer).infer_response
                    assert streamed.raw_output_contents[0] == x.tobytes()
        terms = np.array([f"é{n}" for n in range(60_000)], object)
        v1 = pb.PredictRequest(model="s", inputs=[tensors.encode("x", terms)])
        got = outputs_of(pb.PredictResponse.FromString(await channel.unary_unary(PAIRS[0])(v1.SerializeToString())))
        assert list(got["y"]) == list(terms)
    async with httpx.AsyncClient(base_url=f"http://{server.http}", timeout=100) as client:
        x = np.random.default_rng(1).random((30_000, 4), np.float32)
        flat = {"name": "x", "datatype": "FP32", "shape": x.shape, "data": x.ravel().tolist()}
        answer = (await client.post("/v2/models/f/infer", content=orjson.dumps({"inputs": [flat]}))).json()
        np.testing.assert_array_equal(np.array(answer["outputs"][0]["data"], np.float32), x.ravel())
        answer = (await client.post("/predict/f", content=orjson.dumps({"inputs": {"x": x.tolist()}}))).json()
        np.testing.assert_array_equal(np.array(answer["outputs"]["y"], np.float32), x)
        answer = (await client.post("/predict/s", content=orjson.dumps({"inputs": {"x": list(terms)}}))).json()
        assert answer["outputs"]["y"] == list(terms)


@one_server
@pytest.mark.parametrize("place", ["model", "input", "output", "string", "key", "id", "parameter", "selector"])
async def test_a_lone_surrogate_is_the_callers_fault_wherever_it_stands(server, place) -> None:
    lone = "\ud83d"
    document = rest(datatype="BYTES", shape=[1], data=[lone if place == "string" else "a"])
    predict = {"inputs": {"x": [lone if place == "string" else "a"]}}
    if place == "input":
        document["inputs"][0]["name"] = lone
        predict["inputs"] = {lone: ["a"]}
    elif place == "output":
        document["outputs"], predict["outputs"] = [{"name": lone}], [lone]
    elif place in ("key", "id", "parameter"):
        document |= (
            {lone: 1} if place == "key" else {"id": lone} if place == "id" else {"parameters": {"routing_key": lone}}
        )
        predict |= {lone: 1}
    model = "%ED%A0%BD" if place == "model" else "s"
    selector = "%ED%A0%BD" if place == "selector" else "1.0.0"
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        for path, body in (
            (f"/v2/models/{model}/versions/{selector}/infer", document),
            (f"/predict/{model}/{selector}", predict),
        ):
            answer = await client.post(path, content=json.dumps(body))
            assert answer.status_code in (400, 404), answer.text


async def test_an_answer_that_cannot_be_sent_is_one_items_failure(publish_model, start_server) -> None:
    publish_model("s", "1.0.0", string_identity())
    server = await start_server(limits={"max_message_bytes": 4096})
    items = []
    for request_id, terms in (("large", ["a" * 4030]), ("small", ["a"])):
        request = pb.PredictRequest(
            model="s", request_id=request_id, inputs=[tensors.encode("x", np.array(terms, object))]
        )
        items.append(pb.PredictStreamRequest(request=request).SerializeToString())
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        answers = [
            pb.PredictStreamResponse.FromString(one) async for one in channel.stream_stream(PAIRS[1])(iter(items))
        ]
        by_id = {answer.request_id: answer for answer in answers}
        assert by_id["large"].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert "limits.max_message_bytes" in by_id["large"].error.message
        assert by_id["small"].response.outputs[0].strings == [b"a"]


def large_v1():
    return pb.PredictRequest(model="s", request_id="r", inputs=[strings(30_000)])


def large_infer():
    terms = struct.pack("<I", 1).join([b"", *[b"a"] * 30_000])
    return infer("s", datatype="BYTES", shape=[30_000], raw=[terms])


def large_json():
    return orjson.dumps({"inputs": {"x": ["a"] * 30_000}})


def large_rest():
    return orjson.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [30_000], "data": ["a"] * 30_000}]})


LARGE = {
    "v1": (PAIRS[0], lambda: large_v1().SerializeToString(), (reader, "check_message"), (rpc_codec, "response")),
    "v1 stream": (
        PAIRS[1], lambda: pb.PredictStreamRequest(request=large_v1()).SerializeToString(),
        (reader, "check_message"), (rpc_codec, "response"),
    ),
    "oip": (
        PAIRS[2], lambda: large_infer().SerializeToString(), (exchange, "decode_inputs"), (exchange, "unary_answer"),
    ),
    "oip stream": (
        PAIRS[3], lambda: large_infer().SerializeToString(), (exchange, "decode_inputs"), (exchange, "stream_answer")
    ),
    "/predict": ("/predict/s", large_json, (predict, "json_object"), (predict, "to_nested")),
    "/predict, gzip": (
        "/predict/s", lambda: gzip.compress(large_json()), (predict, "json_object"), (predict, "to_nested")
    ),
    "/v2": ("/v2/models/s/infer", large_rest, (rest_inference, "open_body"), (rest_inference, "inference_answer")),
}  # fmt: skip


def noting_its_thread(function, threads: list[str]):
    def call(*args, **kwargs):
        threads.append(threading.current_thread().name)
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("kind", LARGE)
async def test_what_is_large_is_decoded_and_encoded_beside_the_event_loop(
    publish_model, start_server, monkeypatch, kind
) -> None:
    publish_model("s", "1.0.0", string_identity())
    server = await start_server()
    target, body, *places = LARGE[kind]
    threads: list[str] = []
    for owner, name in places:
        monkeypatch.setattr(owner, name, noting_its_thread(getattr(owner, name), threads))
    if target in PAIRS:
        assert (await answered(server, target, body()))[0] == "OK"
    else:
        headers = {"content-encoding": "gzip"} if "gzip" in kind else {}
        async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
            assert (await client.post(target, content=body(), headers=headers)).status_code == 200
    assert [name.rpartition("-")[0] for name in threads] == ["conversion"] * 2


class Expired(RpcCall):
    """A call whose client waits no longer."""

    metadata = ()
    deadline = 0.0
    host = certificate = authorization = ""

    def mentions(self, keys):
        return False


@one_server
async def test_a_large_request_whose_deadline_passed_is_not_decoded(server, monkeypatch) -> None:
    services, decoded = server.services, []
    monkeypatch.setattr(tensors, "decode", decoded.append)
    guard = replace(services.guard, limits=DEFAULT_LIMITS, max_message_bytes=1 << 20)
    endpoint = Endpoint.of("s", "Predict", pb.PredictRequest, PreferenceReader(Routing()), guard, Templates(FIELDS))
    with pytest.raises(StatusError) as raised:
        await services.inference.answer(PredictExchange(endpoint, large_v1().SerializeToString(), Expired()))
    assert raised.value.status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert not decoded
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        metrics = (await client.get("/metrics")).text
    assert 'turnout_requests_total{code="DEADLINE_EXCEEDED",model="s",role="",version=""} 1.0' in metrics
