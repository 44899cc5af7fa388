"""A server that stops under load answers all that was begun before, and sends what comes after elsewhere."""

import asyncio
import contextlib
import errno
import json
import os
from collections import Counter
from dataclasses import dataclass, field

import grpc
import httpx
import numpy as np
import pytest

from carried import SERVICE, Carried, carried, limited, listens
from held import held_conversions
from http2_client import CALL, Http2Client
from onnx_models import scaled, slow
from started_servers import TRANSPORTS
from stopping import retry_seconds, stopping
from turnout.config import Drain, Runtime
from turnout.host.sockets import connections
from turnout.rpc.transport.asgi.framing import PREFIX
from turnout.serving.versions.manager import Manager
from turnout.telemetry.logging import make_logger
from turnout_client import AsyncClient
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, request

X1 = PREFIX.pack(0, 1) + b"x"


@dataclass
class Outcomes:
    """How calls ended: those begun before the server was told to stop, and those begun after."""

    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    refused: list[grpc.aio.AioRpcError] = field(default_factory=list)


@pytest.fixture
def one_model(publish_model) -> None:
    publish_model("m", "1.0.0", scaled(2))


async def until_stopped(load, outcomes: Outcomes, stop: asyncio.Event) -> None:
    """Calls one after the other until one fails that was begun after the stop."""
    while True:
        late = stop.is_set()
        ended = await load()
        (outcomes.after if late else outcomes.before)[ended] += 1
        if late and ended != "OK":
            return


@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize("delay", [0.0, 0.2])
async def test_unary_calls_begun_before_the_end_are_answered(models, delay: float) -> None:
    outcomes = Outcomes()
    async with stopping(models, drain=Drain(delay_s=delay, timeout_s=20)) as (server, stop):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        channels = [grpc.aio.insecure_channel(str(server.grpc), options=options) for _ in range(4)]

        async def call(stub: PredictionServiceStub) -> str:
            try:
                await stub.Predict(request("m", x=X))
            except grpc.aio.AioRpcError as error:
                outcomes.refused.append(error)
                return error.code().name
            return "OK"

        stubs = [PredictionServiceStub(channel) for channel in channels]
        loads = [
            asyncio.create_task(until_stopped(lambda stub=stub: call(stub), outcomes, stop))
            for stub in stubs
            for _ in range(16)
        ]
        async with asyncio.timeout(100):
            while outcomes.before["OK"] < 500:
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*loads)
        for channel in channels:
            await channel.close()
    assert set(outcomes.before) == {"OK"}
    assert set(outcomes.after) <= {"OK", "UNAVAILABLE"}


@pytest.mark.usefixtures("one_model")
async def test_requests_over_http_begun_before_the_end_are_answered(models) -> None:
    outcomes = Outcomes()
    body = json.dumps({"inputs": {"x": [[1, 2, 3, 4]]}})
    async with (
        # Long enough for what was begun before to have come, whoever had to wait for a core.
        stopping(models, drain=Drain(delay_s=2.0, timeout_s=20)) as (server, stop),
        httpx.AsyncClient(base_url=f"http://{server.http}") as client,
    ):

        async def call() -> str:
            if stop.is_set():
                await asyncio.sleep(0.02)
            try:
                answer = await client.post("/predict/m", content=body)
            except httpx.TransportError as error:
                return type(error).__name__
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1
            return "OK" if answer.status_code == 200 else str(answer.status_code)

        loads = [asyncio.create_task(until_stopped(call, outcomes, stop)) for _ in range(8)]
        async with asyncio.timeout(100):
            while outcomes.before["OK"] < 200:
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*loads)
    assert set(outcomes.before) == {"OK"}


@pytest.mark.usefixtures("one_model")
async def test_requests_of_a_stream_are_answered_and_then_it_ends_with_a_delay(models) -> None:
    async with (
        stopping(models, drain=Drain(delay_s=0, timeout_s=20)) as (server, stop),
        grpc.aio.insecure_channel(str(server.grpc)) as channel,
    ):
        stream = PredictionServiceStub(channel).PredictStream()
        for index in range(50):
            item = request("m", x=X)
            item.request_id = str(index)
            await stream.write(pb.PredictStreamRequest(request=item))
        first = await stream.read()
        assert isinstance(first, pb.PredictStreamResponse)
        answered = {first.request_id}
        for _ in range(49):
            answered.add((await stream.read()).request_id)
        stop.set()
        with pytest.raises(grpc.aio.AioRpcError) as ending:
            await stream.read()
        assert answered == {str(index) for index in range(50)}
        assert ending.value.code() is grpc.StatusCode.UNAVAILABLE
        assert retry_seconds(ending.value) > 0


@pytest.mark.usefixtures("one_model")
async def test_a_large_request_of_a_stream_that_was_read_is_answered(models) -> None:
    large = request("m", request_id="large", x=np.zeros((2**17, 4), np.float32))
    async with (
        stopping(models, drain=Drain(delay_s=0, timeout_s=60)) as (server, stop),
        grpc.aio.insecure_channel(str(server.grpc)) as channel,
    ):
        stream = PredictionServiceStub(channel).PredictStream()
        conversions = server.parts.serving.conversions._calls
        with held_conversions(server) as go_on:
            await stream.write(pb.PredictStreamRequest(request=large))
            async with asyncio.timeout(60):
                while not conversions:
                    await asyncio.sleep(0.01)
            stop.set()
            async with asyncio.timeout(60):
                await server.services.inference.draining.wait()
                await asyncio.sleep(0)
            go_on.set()
        answer = await stream.read()
        assert isinstance(answer, pb.PredictStreamResponse)
        assert (answer.request_id, len(answer.response.outputs)) == ("large", 1)
        with pytest.raises(grpc.aio.AioRpcError) as ending:
            await stream.read()
        assert ending.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize("transport", ["unary", "stream"])
async def test_a_client_of_ours_loses_nothing_when_its_server_is_followed_by_another(models, transport) -> None:
    async with stopping(models) as (second, _), stopping(models) as (first, stop):
        outcomes = Counter[str]()
        async with AsyncClient(f"ipv4:{first.grpc},{second.grpc}", transport=transport) as client:

            async def load() -> None:
                for _ in range(60):
                    answer = await client.predict("m", {"x": X})
                    outcomes[answer.version] += 1

            loads = asyncio.gather(*(load() for _ in range(8)))
            async with asyncio.timeout(60):
                while outcomes.total() < 100 and not loads.done():
                    await asyncio.sleep(0.01)
                stop.set()
                await loads
        assert outcomes == {"1.0.0": 480}


def connect(server: Carried) -> Http2Client:
    return Http2Client(server.address.host, server.address.port)


async def test_a_request_whose_body_is_on_its_way_is_answered() -> None:
    async with carried() as server, connect(server) as client:
        half = await client.begin(SERVICE + "Echo")
        await client.send(half, X1[:3])
        stream = await client.begin(SERVICE + "Duplex")
        await client.send(stream, X1)
        async with asyncio.timeout(60):
            while server.admission.under_way < 2 or not client.answers[stream].body:
                await client.receive()
        server.admission.stop()
        stopped = asyncio.create_task(server.listener.stop(100))
        async with asyncio.timeout(60):
            while client.goaway is None:
                await client.receive()
        assert client.goaway.error_code == 0
        await client.send(half, X1[3:], end=True)
        await client.send(stream, X1, end=True)
        assert (await client.answer(half)).body == X1
        answer = await client.answer(stream)
        assert (answer.body, answer.grpc_status) == (X1 + X1, 0)
        await stopped


async def test_what_comes_while_the_last_call_ends_is_refused_with_a_delay() -> None:
    async with carried() as server, connect(server) as client:
        slow = await client.begin(SERVICE + "Duplex")
        await client.send(slow, X1)
        async with asyncio.timeout(60):
            while not client.answers[slow].body:
                await client.receive()
        server.admission.stop()
        stopped = asyncio.create_task(server.listener.stop(100))
        async with asyncio.timeout(60):
            while client.goaway is None:
                await client.receive()
        async with grpc.aio.insecure_channel(server.target) as channel:
            for _ in range(20):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await channel.unary_unary(SERVICE + "Echo")(b"x")
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                assert retry_seconds(refused.value) > 0
            assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"x") == b"x"
        assert not stopped.done()
        await client.send(slow, X1, end=True)
        assert (await client.answer(slow)).grpc_status == 0
        await stopped


async def test_a_call_that_outlasts_the_drain_is_told_so() -> None:
    async with carried() as server, connect(server) as client:
        calls = [await client.begin(SERVICE + method, CALL) for method in ("Sleep", "PromptSleep", "Watch")]
        for call in calls:
            await client.send(call, X1)
        async with asyncio.timeout(60):
            while server.admission.under_way < 3:
                await asyncio.sleep(0.01)
        server.admission.stop()
        await server.listener.stop(0.1)
        for call in calls:
            answer = await client.answer(call)
            assert (answer.reset or 0, answer.grpc_status) == (0, grpc.StatusCode.UNAVAILABLE.value[0])


async def test_whoever_watches_the_health_holds_no_drain_up() -> None:
    async with carried() as server, connect(server) as client:
        watch = await client.begin("/grpc.health.v1.Health/Watch")
        async with asyncio.timeout(60):
            while not client.answers[watch].body:
                await client.receive()
        server.admission.stop()
        async with asyncio.timeout(25):
            stopped = asyncio.create_task(server.listener.stop(30))
            assert (await client.answer(watch)).grpc_status == grpc.StatusCode.UNAVAILABLE.value[0]
            while client.goaway is None:
                await client.receive()
            client.writer.close()  # as clients do that have nothing under way on a connection that is to end
            await stopped


async def read_all(call) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "path", ["/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
)
async def test_a_stream_about_the_server_itself_ends_when_it_drains(models, transport: str, path: str) -> None:
    async with (
        stopping(models, drain=Drain(delay_s=0.0, timeout_s=600.0), transport={"data": transport}) as (server, stop),
        grpc.aio.insecure_channel(str(server.grpc)) as channel,
        asyncio.timeout(100),
    ):
        call = channel.stream_stream(path)()
        if "health" in path:
            await call.write(b"")
            await call.done_writing()
        else:
            await call.write(b"\x3a\x00")  # which services are there?
        assert await call.read()
        stop.set()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await read_all(call)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert retry_seconds(ended.value) > 0


async def connected(server: Carried) -> int:
    """Returns how many connections the listener has."""
    found = await asyncio.to_thread(connections, server.address.port)
    for connection in found:
        connection.close()
    return len(found)


async def test_calls_end_although_the_system_has_no_room_for_those_that_come_later(monkeypatch) -> None:
    async with carried(log=make_logger("json", "critical")) as server, connect(server) as client:
        call = await client.begin(SERVICE + "Duplex")
        await client.send(call, X1)
        async with asyncio.timeout(60):
            while not client.answers[call].body:
                await client.receive()

        async def no_room() -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        server.admission.stop()
        with monkeypatch.context() as scarce:
            scarce.setattr(server.listener, "_begin", no_room)
            stopped = asyncio.create_task(server.listener.stop(100))
            async with asyncio.timeout(60):
                while client.goaway is None:
                    await client.receive()
            await client.send(call, X1, end=True)
            answer = await client.answer(call)
            assert (answer.body, answer.grpc_status) == (X1 + X1, 0)
            await stopped
        assert not await listens(server.address)


@pytest.mark.parametrize("bound", [0.0, 0.001, 0.2])
async def test_a_stop_that_is_given_up_leaves_nothing_open(bound: float) -> None:
    async with carried() as server, connect(server) as client:
        call = await client.begin(SERVICE + "Watch", CALL)
        await client.send(call, X1)
        async with asyncio.timeout(60):
            while not server.admission.under_way:
                await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(bound):
                await server.listener.stop(30)
        assert not await listens(server.address)
        async with asyncio.timeout(60):  # h2corn closes what was cut in a thread of its own
            while await connected(server):
                await asyncio.sleep(0.01)
        assert await client.receive() is False or client.closed


async def test_a_generation_that_is_given_up_while_it_begins_listens_no_longer_than_the_others() -> None:
    async with carried() as server:
        ageing = asyncio.create_task(server.listener._replace(1.0))
        await asyncio.sleep(0)
        ageing.cancel()
        await server.listener.stop(1.0)
        assert ageing.cancelled()
        async with asyncio.timeout(60):
            while await listens(server.address):  # what is let go last is closed a moment later
                pass


async def test_a_stop_that_meets_a_listener_beginning_anew_leaves_nobody_listening() -> None:
    async with carried() as server:
        failed = server.listener._current
        assert failed is not None
        failed.server.shutdown()  # as it ends where accept() fails
        async with asyncio.timeout(60):
            while server.listener._running <= {failed}:
                await asyncio.sleep(0)
        await server.listener.stop(1.0)
        async with asyncio.timeout(60):
            while await listens(server.address):
                pass


async def test_a_connection_that_only_looks_is_closed_by_the_drain() -> None:
    async with carried(settings=limited(header_timeout_s=0.3)) as server:
        reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
        server.admission.stop()
        await server.listener.stop(1)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 60) is not None
        writer.close()


@pytest.mark.usefixtures("one_model")
async def test_http_clients_are_told_to_leave_their_connections_while_the_server_is_not_ready(models) -> None:
    async with (
        stopping(models, drain=Drain(delay_s=20.0)) as (server, stop),
        httpx.AsyncClient(base_url=f"http://{server.http}") as client,
    ):
        assert "connection" not in (await client.get("/livez")).headers
        stop.set()
        while (answer := await client.get("/readyz")).status_code == 200:
            await asyncio.sleep(0.005)
        assert answer.headers["connection"] == "close"
        late = await client.post("/predict/m", json={"inputs": {"x": X.tolist()}})
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        server.without_delay.set()


@pytest.mark.slow
async def test_what_outlasts_the_drain_is_told_so_over_http_and_its_run_is_not_waited_for_again(
    publish_model, models, monkeypatch
) -> None:
    publish_model("slow", "1.0.0", slow())
    given: list[float] = []
    close = Manager.close

    async def noted(manager: Manager, bound: float) -> None:
        given.append(bound)
        await close(manager, bound)

    monkeypatch.setattr(Manager, "close", noted)
    tensors = [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]},
        {"name": "n", "datatype": "INT64", "shape": [], "data": [20_000_000]},
    ]
    async with (
        stopping(models, drain=Drain(delay_s=0, timeout_s=2), runtime=Runtime(isolation="process")) as (server, stop),
        httpx.AsyncClient(base_url=f"http://{server.http}", timeout=100) as http,
    ):
        asked = asyncio.create_task(http.post("/v2/models/slow/infer", json={"inputs": tensors}))
        async with asyncio.timeout(100):
            while server.admission.under_way < 1:
                await asyncio.sleep(0.01)
        stop.set()
        answer = await asked
    assert (answer.status_code, answer.text) == (503, "the server stopped before the answer was ready\n")
    assert len(given) == 1
    assert given[0] <= 1.0, "the rest of the two seconds is over"
