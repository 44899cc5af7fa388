"""Large answers that clients do not read: they are limited together, and no longer counted once their calls end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product

import grpc
import httpx
import orjson
import pytest
from hyperframe.frame import RstStreamFrame
from semver import Version

from http2_client import Http2Client, message
from onnx_models import repeats, scaled
from started_servers import TRANSPORTS, starting
from turnout.admission.unread import UnsentBudget
from turnout.app.server import Running
from turnout.config import Limits
from turnout_proto.oip.inference_pb2 import ModelInferRequest
from turnout_proto.v1 import prediction_pb2 as pb
from wire import X, outputs_of, refusal, request, stub_of

MIB = 1 << 20

BUDGET = 24 * MIB

CANCEL = 8

PREDICT = "/turnout.v1.PredictionService/Predict"
PREDICT_STREAM = "/turnout.v1.PredictionService/PredictStream"
INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"

PATIENCE = 100


def _infer(request_id: str) -> bytes:
    made = ModelInferRequest(model_name="wide", id=request_id, raw_input_contents=[X.tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=X.shape)
    return message(made.SerializeToString())


def _predict(request_id: str) -> bytes:
    return message(pb.PredictStreamRequest(request=request("wide", request_id=request_id, x=X)).SerializeToString())


class Hoarder:
    """A client of several calls that reads none of their answers."""

    def __init__(self, server: Running) -> None:
        self._client = Http2Client(server.grpc.host, server.grpc.port, window=1000, release_memory=False)
        self._calls: list[int] = []

    async def ask(self) -> None:
        """Asks for more than the whole budget: 20 unary answers, and 40 on streams of both protocols."""
        client = self._client
        for _ in range(20):
            self._calls.append(await client.begin(PREDICT))
            await client.send(self._calls[-1], message(request("wide", x=X).SerializeToString()), end=True)
        for path, item in ((PREDICT_STREAM, _predict), (INFER_STREAM, _infer)):
            self._calls.append(await client.begin(path))
            await client.send(self._calls[-1], b"".join(item(str(number)) for number in range(20)))

    async def cancel(self) -> None:
        """Resets all calls."""
        for call in self._calls:
            self._client.frame(RstStreamFrame(call, CANCEL))
        await self._client.flush()


@asynccontextmanager
async def hoarders(server: Running, count: int) -> AsyncIterator[list[Hoarder]]:
    """Opens connections of clients that have asked for answers and do not read them."""
    async with AsyncExitStack() as stack:
        opened = [Hoarder(server) for _ in range(count)]
        for hoarder in opened:
            await stack.enter_async_context(hoarder._client)
        await asyncio.gather(*(hoarder.ask() for hoarder in opened))
        yield opened


@asynccontextmanager
async def most_of(unsent: UnsentBudget) -> AsyncIterator[list[int]]:
    """Notes how much is counted, over and over."""
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(unsent.held)
            await asyncio.sleep(0.001)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()


async def _asked(server: Running) -> None:
    """Waits until the server has refused answers, and runs no more requests."""
    async with asyncio.timeout(PATIENCE):
        while not server.services.guard.unsent.refused:
            await asyncio.sleep(0.05)
    await _idle(server)


async def _idle(server: Running) -> None:
    """Waits until the server runs no more requests."""
    handle = server.services.catalog.snapshot.models["wide"].versions[Version(1)].handle
    runs, before = handle.recorder.batches, -1
    async with asyncio.timeout(PATIENCE):
        while handle.inflight or before != runs.runs:
            before = runs.runs
            await asyncio.sleep(0.3)


async def _none_left(unsent: UnsentBudget, stub) -> None:
    """Waits until no answer is counted. h2corn gives up an answer's bytes when it next calls into Python."""
    async with asyncio.timeout(PATIENCE):
        while unsent.held:
            assert (await stub.Predict(request("small", x=X))).outputs
            await asyncio.sleep(0.05)


@pytest.fixture
def models(publish_model, models):
    publish_model("wide", "1.0.0", repeats(65_536))  # answers of 1 MiB
    publish_model("small", "1.0.0", scaled(2))
    return models


@pytest.mark.parametrize(
    ("data_transport", "end"),
    [*product(TRANSPORTS, ["cancelled", "disconnected", "drained"]), ("h2corn", "stalled")],  # grpcio has no such limit
    indirect=["data_transport"],
)
async def test_answers_that_nobody_reads_are_limited_together(end: str, models, data_transport: str) -> None:
    limits = Limits(max_unsent_bytes=BUDGET, stall_timeout_s=1.0 if end == "stalled" else 60.0)
    async with AsyncExitStack() as stack:
        start = await stack.enter_async_context(starting(models, data_transport))
        server = await start(limits=limits, drain={"delay_s": 0.0, "timeout_s": 1.0})
        unsent = server.services.guard.unsent
        async with stub_of(server) as stub:
            async with hoarders(server, 3) as clients, most_of(unsent) as seen:
                await _asked(server)
                assert unsent.held > 4 * MIB
                answer = await stub.Predict(request("small", x=X))  # others are served
                assert outputs_of(answer)["y"].shape == X.shape
                if data_transport == "h2corn":  # with large answers too: grpcio does not tell connections apart
                    assert outputs_of(await stub.Predict(request("wide", x=X)))["y"].nbytes == MIB
                if end == "cancelled":
                    for client in clients:
                        await client.cancel()
                if end in ("cancelled", "stalled"):
                    await _none_left(unsent, stub)
                if end == "drained":
                    await stack.aclose()
            if end == "disconnected":
                await _none_left(unsent, stub)
    assert max(seen) <= BUDGET + 2 * MIB  # an answer that is joined anew counts twice for a moment
    assert unsent.held == 0


async def test_refusals_say_what_to_do(models, start_server) -> None:
    server = await start_server(limits={"max_unsent_bytes": 3 * MIB})
    unsent = server.services.guard.unsent
    others = unsent.hold("others", 2 * MIB)
    async with stub_of(server) as stub:
        refused = await refusal(stub.Predict(request("wide", x=X)))
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "limits.max_unsent_bytes" in refused.message
        assert refused.retry_after == 1.0
        stream = stub.PredictStream()
        for model in ("wide", "small"):
            await stream.write(pb.PredictStreamRequest(request=request(model, request_id=model, x=X)))
        answers = {answer.request_id: answer for answer in [await stream.read(), await stream.read()]}
        assert answers["wide"].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert answers["small"].response.outputs
        async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
            for path, body in (
                ("/predict/wide", {"inputs": {"x": X.tolist()}}),
                ("/v2/models/wide/infer", _rest()),
                ("/v2/models/wide/infer", _rest(binary=True)),
            ):
                answer = await client.post(path, json=body)
                assert (answer.status_code, answer.headers.get("retry-after")) == (429, "1")
                assert "limits.max_unsent_bytes" in answer.text
            scraped = (await client.get("/metrics")).text
            assert "\nturnout_unsent_bytes 2.097152e+06\n" in scraped
            assert 'turnout_requests_refused_total{reason="unsent"} 5' in scraped
            others.release()
            assert (await client.post("/v2/models/wide/infer", json=_rest(binary=True))).status_code == 200
        assert (await stub.Predict(request("wide", x=X))).outputs
        await _none_left(unsent, stub)


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_unread_answers_over_http_are_counted(version: str, models, start_server) -> None:
    server = await start_server(limits={"max_unsent_bytes": BUDGET})
    unsent = server.services.guard.unsent
    body = orjson.dumps(_rest(binary=True))  # the kernel buffers some of what is sent over HTTP/1.1
    async with AsyncExitStack() as stack, stub_of(server) as stub, most_of(unsent) as seen:
        for _ in range(40):
            if version == "2":
                client = Http2Client(server.http.host, server.http.port, window=1000, release_memory=False)
                await stack.enter_async_context(client)
                headers = (("content-type", "application/json"), ("host", "localhost"))
                await client.send(await client.begin("/v2/models/wide/infer", headers), body, end=True)
            else:
                client = stack.enter_context(socket.create_connection((server.http.host, server.http.port)))
                head = f"POST /v2/models/wide/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
                client.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        async with asyncio.timeout(PATIENCE):
            while not unsent.held:
                await asyncio.sleep(0.05)
        await _idle(server)
        assert (await stub.Predict(request("small", x=X))).outputs
        await stack.aclose()
        await _none_left(unsent, stub)
    assert 0 < max(seen) <= BUDGET


def _rest(*, binary: bool = False) -> dict[str, object]:
    x = {"name": "x", "datatype": "FP32", "shape": list(X.shape), "data": X.ravel().tolist()}
    return {"inputs": [x], **({"parameters": {"binary_data_output": True}} if binary else {})}
