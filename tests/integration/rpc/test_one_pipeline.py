"""Whatever the protocol, a request that fails is told, counted, logged and traced once, by one code."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import grpc
import httpx
import pytest

from http2_client import CALL, Http2Client
from http2_client import message as framed
from onnx_models import scaled
from otlp_receiver import Span, http_collector
from routing_wire import ended_by_code
from turnout.app.server import Running
from turnout.config import Tracing
from turnout.routing.router import PolicyRouter
from turnout.rpc import codec
from turnout.rpc.oip import exchange
from turnout.serving.versions.handle import VersionHandle
from turnout.web import predict
from turnout.web.oip import inference as rest
from turnout_proto.oip import inference_pb2 as oip
from turnout_proto.v1 import prediction_pb2 as pb
from wire import X, request

CODES = {code.value[0]: code.name for code in grpc.StatusCode}
STATUSES = {200: "OK", 400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 500: "INTERNAL", 503: "UNAVAILABLE"}
GONE = "the model's entry is gone"

Send = Callable[[Running, str, str], Awaitable[str]]
"""Sends one request to a model, or bytes that are none for model "", for an input; returns the code that it got."""


def boom(*_: object, **__: object) -> None:
    raise RuntimeError(GONE)


async def unary(server: Running, path: str, message: bytes) -> str:
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        try:
            await channel.unary_unary(path)(message, timeout=100)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def stream(server: Running, path: str, message: bytes) -> bytes:
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        (answer,) = [item async for item in channel.stream_stream(path)(iter([message]), timeout=100)]
    return answer


async def post(server: Running, path: str, body: object) -> str:
    content = b"{" if body is None else json.dumps(body)
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        return STATUSES[(await client.post(path, content=content)).status_code]


async def send_predict(server: Running, model: str, name: str) -> str:
    message = request(model, request_id="r", **{name: X}).SerializeToString() if model else b"\xff"
    return await unary(server, "/turnout.v1.PredictionService/Predict", message)


async def send_predict_stream(server: Running, model: str, name: str) -> str:
    item = pb.PredictStreamRequest(request=request(model, request_id="r", **{name: X}))
    message = item.SerializeToString() if model else b"\xff"
    answer = await stream(server, "/turnout.v1.PredictionService/PredictStream", message)
    return CODES[pb.PredictStreamResponse.FromString(answer).error.code]


def infer(model: str, name: str) -> bytes:
    message = oip.ModelInferRequest(model_name=model, raw_input_contents=[X.tobytes()])
    message.inputs.add(name=name, datatype="FP32", shape=[1, 4])
    return message.SerializeToString() if model else b"\xff"


async def send_infer(server: Running, model: str, name: str) -> str:
    return await unary(server, "/inference.GRPCInferenceService/ModelInfer", infer(model, name))


async def send_infer_stream(server: Running, model: str, name: str) -> str:
    answer = await stream(server, "/inference.GRPCInferenceService/ModelStreamInfer", infer(model, name))
    return "told" if oip.ModelStreamInferResponse.FromString(answer).error_message else "OK"  # it has no codes


async def send_json(server: Running, model: str, name: str) -> str:
    return await post(server, f"/predict/{model or 'm'}", {"inputs": {name: X.tolist()}} if model else None)


async def send_rest(server: Running, model: str, name: str) -> str:
    tensor = {"name": name, "datatype": "FP32", "shape": [1, 4], "data": X.ravel().tolist()}
    return await post(server, f"/v2/models/{model or 'm'}/infer", {"inputs": [tensor]} if model else None)


ADAPTERS: dict[str, tuple[Send, tuple[object, str], tuple[object, str]]] = {
    "Predict": (send_predict, (codec, "_inputs"), (codec, "response")),
    "PredictStream": (send_predict_stream, (codec, "_inputs"), (codec, "response")),
    "ModelInfer": (send_infer, (exchange, "decode_inputs"), (exchange, "unary_answer")),
    "ModelStreamInfer": (send_infer_stream, (exchange, "decode_inputs"), (exchange, "stream_answer")),
    "/predict": (send_json, (predict, "json_object"), (predict, "to_nested")),
    "/v2/infer": (send_rest, (rest, "read_inputs"), (rest, "inference_answer")),
}
_OF_REQUESTS = ("request", "unexpected error")
ROUTE, RUN = (PolicyRouter, "route"), (VersionHandle, "infer_now")


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_what_fails_is_told_counted_logged_and_traced_once(
    publish_model, start_server, monkeypatch, capfd, adapter
) -> None:
    send, decode, encode = ADAPTERS[adapter]
    publish_model("m", "1.0.0", scaled(2))
    cases: list[tuple[str, str, str, tuple[object, str] | None]] = [
        ("", "x", "INVALID_ARGUMENT", None),
        ("absent", "x", "NOT_FOUND", None),
        ("m", "z", "INVALID_ARGUMENT", None),
        ("m", "x", "INTERNAL", decode),
        ("m", "x", "INTERNAL", ROUTE),
        ("m", "x", "INTERNAL", RUN),
        ("m", "x", "INTERNAL", encode),
        ("m", "x", "OK", None),
    ]
    with http_collector() as collector:
        tracing = Tracing(endpoint=collector.endpoint, sample_ratio=1.0, interval_s=0.05)
        server = await start_server(tracing=tracing)
        capfd.readouterr()
        logged, before = list[str](), await ended_by_code(server)
        for number, (model, name, code, broken) in enumerate(cases, start=1):
            case = model, name, broken
            with monkeypatch.context() as patch:
                if broken is not None:
                    patch.setattr(*broken, boom)
                got = await send(server, model, name)
            assert got == ("told" if adapter == "ModelStreamInfer" and code != "OK" else code), case
            # An answer that cannot be encoded was one before: it was counted, and its latency was.
            as_counted = "OK" if broken == encode else code
            after = await ended_by_code(server)
            grown = {c: count - before.get(c, 0.0) for c, count in after.items()}
            before = after
            assert {c: more for c, more in grown.items() if more} == {as_counted: 1.0}, case
            *_, span = await collector.requests(number)
            assert span.is_error == (code == "INTERNAL"), case
            assert code_of(span) == code, case
            logged += ["unexpected error"] if broken is not None else []
            logged += [code] if as_counted != "OK" else []
        assert await lines(capfd, len(logged)) == logged
        assert server.parts.base.metrics.faults.unexpected["inference"] == sum(
            broken is not None for *_, broken in cases
        )


async def lines(capfd: pytest.CaptureFixture[str], count: int) -> list[str]:
    """Returns what the log tells of requests, in order, once it tells so much: a thread writes it."""
    found: list[str] = []
    async with asyncio.timeout(100):
        while len(found) < count:
            logged = map(json.loads, capfd.readouterr().err.splitlines())
            found += [line.get("code", line["event"]) for line in logged if line["event"] in _OF_REQUESTS]
            await asyncio.sleep(0.01)
    return found


def code_of(span: Span) -> str:
    """Returns the code that a span ended with, whatever the protocol."""
    by_http = span.attributes.get("http.response.status_code")
    return str(span.attributes["rpc.response.status_code"]) if by_http is None else STATUSES[by_http]


@pytest.mark.parametrize("traced", [False, True])
async def test_metadata_that_cannot_be_read_is_the_callers_fault(publish_model, start_server, traced) -> None:
    publish_model("m", "1.0.0", scaled(2))
    tracing = Tracing(endpoint="http://127.0.0.1:9", sample_ratio=1.0) if traced else Tracing()
    server = await start_server(tracing=tracing, log={"level": "error"})
    headers = (*CALL, ("x-routing-key", "k"), ("trace-bin", "?"))
    item = pb.PredictStreamRequest(request=request("m", request_id="r", x=X)).SerializeToString()
    calls = {
        "/turnout.v1.PredictionService/Predict": request("m", x=X).SerializeToString(),
        "/turnout.v1.PredictionService/PredictStream": item,
        "/inference.GRPCInferenceService/ModelInfer": infer("m", "x"),
        "/inference.GRPCInferenceService/ModelStreamInfer": infer("m", "x"),
    }
    async with Http2Client(server.grpc.host, server.grpc.port) as client:
        for path, body in calls.items():
            answer = await client.call(path, framed(body), headers)
            assert (CODES[answer.grpc_status], "'trace-bin'" in answer.grpc_message) == ("INVALID_ARGUMENT", True), path
    assert server.parts.base.metrics.faults.unexpected["inference"] == 0
    assert await ended_by_code(server) == {"INVALID_ARGUMENT": 2.0}  # of the streams nothing was read
