"""A request that is given up, at whatever stage, is counted once, by the code that its client sees."""

import asyncio
import json
import time

import numpy as np
import pytest
from google.rpc import code_pb2
from hyperframe.frame import RstStreamFrame

from held import held_conversions, held_runs
from http2_client import CALL, Http2Client, message
from onnx_models import scaled
from routing_wire import ended_by_code, scrape
from turnout.app.server import Running
from turnout_proto.oip import inference_pb2
from turnout_proto.v1 import prediction_pb2 as pb
from wire import X, request

PREDICT = "/turnout.v1.PredictionService/Predict"
PREDICT_STREAM = "/turnout.v1.PredictionService/PredictStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"
LARGE = np.zeros((70_000, 4), np.float32)
"""More than a mebibyte, so that it is decoded in a thread."""
RESET_BY_CLIENT = 8
DECISIONS = "turnout_route_decisions_total"


def item(name: str) -> bytes:
    return message(pb.PredictStreamRequest(request=request("m", request_id=name, x=X)).SerializeToString())


def cancel(name: str) -> bytes:
    return message(pb.PredictStreamRequest(cancel=name).SerializeToString())


def infer() -> bytes:
    large = inference_pb2.ModelInferRequest(model_name="m", raw_input_contents=[LARGE.tobytes()])
    large.inputs.add(name="x", datatype="FP32", shape=LARGE.shape)
    return message(large.SerializeToString())


LARGE_CALLS = {
    PREDICT: message(request("m", x=LARGE).SerializeToString()),
    PREDICT_STREAM: message(pb.PredictStreamRequest(request=request("m", request_id="r", x=LARGE)).SerializeToString()),
    INFER: infer(),
    "/inference.GRPCInferenceService/ModelStreamInfer": infer(),
}


async def ended(server: Running) -> dict[str, float]:
    """Waits until requests have ended, and returns how many by each code."""
    async with asyncio.timeout(100):
        while not (codes := await ended_by_code(server)):
            await asyncio.sleep(0.01)
    return codes


@pytest.fixture
async def server(publish_model, start_server) -> Running:
    publish_model("m", "1.0.0", scaled(2))
    return await start_server(runtime={"inline_threshold_us": 0}, log={"level": "error"})


async def sent_to_conversions(server: Running) -> None:
    """Waits until a message waits for its turn to be decoded."""
    async with asyncio.timeout(100):
        while not server.parts.serving.conversions._calls:
            await asyncio.sleep(0.01)


async def decided(server: Running, requests: int) -> None:
    """Waits until so many requests were routed."""
    async with asyncio.timeout(100):
        while sum(v for (name, *_), v in (await scrape(server)).items() if name == DECISIONS) < requests:
            await asyncio.sleep(0.01)


async def test_an_item_that_came_together_with_its_cancellation(server: Running) -> None:
    async with Http2Client(server.grpc.host, server.grpc.port) as client:
        with held_runs(server, "m"):
            answer = await client.call(PREDICT_STREAM, item("a") + cancel("a") + item("b") + cancel("b"))
        assert (answer.body, answer.grpc_status) == (b"", code_pb2.OK)
        assert await ended(server) == {"CANCELLED": 2.0}


async def test_an_item_whose_id_is_free_again_once_it_was_cancelled(server: Running) -> None:
    async with Http2Client(server.grpc.host, server.grpc.port) as client:
        stream = await client.begin(PREDICT_STREAM)
        with held_runs(server, "m"):
            await client.send(stream, item("a") + cancel("a"))
            assert await ended(server) == {"CANCELLED": 1.0}
            await client.send(stream, item("a"), end=True)
        answer = await client.answer(stream)
        assert pb.PredictStreamResponse.FromString(answer.body[5:]).WhichOneof("result") == "response"
        assert await ended(server) == {"CANCELLED": 1.0, "OK": 1.0}


@pytest.mark.parametrize("path", LARGE_CALLS)
async def test_a_large_message_that_waits_to_be_decoded(server: Running, path: str) -> None:
    async with Http2Client(server.grpc.host, server.grpc.port) as client:
        with held_conversions(server):
            stream = await client.begin(path)
            await client.send(stream, LARGE_CALLS[path], end=True)
            await sent_to_conversions(server)
            client.frame(RstStreamFrame(stream, RESET_BY_CLIENT))
            await client.flush()
            assert await ended(server) == {"CANCELLED": 1.0}


@pytest.mark.parametrize("path", LARGE_CALLS)
async def test_a_large_message_whose_deadline_passes_before_it_is_decoded(server: Running, path: str) -> None:
    async with Http2Client(server.grpc.host, server.grpc.port) as client:
        with held_conversions(server):
            answer = await client.call(path, LARGE_CALLS[path], (*CALL, ("grpc-timeout", "500m")))
            assert answer.grpc_status == code_pb2.DEADLINE_EXCEEDED
            assert await ended(server) == {"DEADLINE_EXCEEDED": 1.0}


async def test_a_large_body_that_waits_to_be_decoded(server: Running) -> None:
    async with Http2Client(server.http.host, server.http.port) as client:
        with held_conversions(server):
            stream = await client.begin("/predict/m", (("content-type", "application/json"),))
            await client.send(stream, json.dumps({"inputs": {"x": LARGE.tolist()}}).encode(), end=True)
            await sent_to_conversions(server)
            client.frame(RstStreamFrame(stream, RESET_BY_CLIENT))
            await client.flush()
            assert await ended(server) == {"CANCELLED": 1.0}


async def test_a_request_over_http_1_whose_client_leaves(server: Running) -> None:
    body = json.dumps({"inputs": {"x": X.tolist()}}).encode()
    head = b"POST /predict/m HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    (_, leaves), (answers, stays) = [
        await asyncio.open_connection(server.http.host, server.http.port) for _ in range(2)
    ]
    with held_runs(server, "m"):
        for writer in (leaves, stays):
            writer.write(head + body)
        await decided(server, 2)
        leaves.close()
        assert await ended(server) == {"CANCELLED": 1.0}
    assert await answers.readline() == b"HTTP/1.1 200 OK\r\n"
    assert await ended_by_code(server) == {"CANCELLED": 1.0, "OK": 1.0}
    stays.close()


async def test_a_deadline_that_passes_while_the_event_loop_is_busy(server: Running) -> None:
    """The queue and the transport then find it at once, and the transport's word is the later one."""
    async with Http2Client(server.grpc.host, server.grpc.port) as client:
        with held_runs(server, "m"):
            stream = await client.begin(PREDICT, (*CALL, ("grpc-timeout", "500m")))
            await client.send(stream, message(request("m", x=X).SerializeToString()), end=True)
            await decided(server, 1)
            time.sleep(1.0)  # noqa: ASYNC251 - the server runs on this event loop
            answer = await client.answer(stream)
            assert answer.grpc_status == code_pb2.DEADLINE_EXCEEDED
            assert await ended(server) == {"DEADLINE_EXCEEDED": 1.0}
