"""A server that says it is healthy and fails all it is asked: Envoy, as deploy/envoy sets it up, lets it rest."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import onnx_models
from fleet import envoy_path, envoys_of, hosts
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceServicer, PredictionServiceStub
from turnout_proto.v1.prediction_pb2_grpc import add_PredictionServiceServicer_to_server as add_prediction
from wire import request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

REQUESTS = 60


class _Healthy(health_pb2_grpc.HealthServicer):
    async def Check(self, asked, context):
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class _Failing(PredictionServiceServicer):
    def __init__(self) -> None:
        self.asked = 0
        self.code = grpc.StatusCode.UNAVAILABLE

    async def Predict(self, asked, context):
        self.asked += 1
        await context.abort(self.code, "as a machine whose disk is gone")


@pytest.fixture
async def failing() -> AsyncIterator[tuple[_Failing, str]]:
    """A server that is healthy by its own word; yields what it does, and its address."""
    server, broken = grpc.aio.server(), _Failing()
    health_pb2_grpc.add_HealthServicer_to_server(_Healthy(), server)
    add_prediction(broken, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield broken, f"127.0.0.1:{port}"
    await server.stop(None)


@asynccontextmanager
async def _envoy(scratch: Path, *servers: str) -> AsyncIterator[tuple[str, str]]:
    """Envoy before these servers, without retries; yields its address, and the URL of its administration."""
    starting = envoys_of(scratch, {"predictions": list(servers)}, retries=False, rest="100s")
    listeners, admin = await asyncio.to_thread(starting.__enter__)  # it waits for servers that run on this loop
    try:
        yield listeners["predictions"], admin
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


async def _ask(address: str, index: int = 1) -> Counter[str]:
    answered: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = PredictionServiceStub(channel)
        for _ in range(REQUESTS):
            try:
                await stub.Predict(request("m", index=np.array([index])), timeout=100)
                answered["OK"] += 1
            except grpc.aio.AioRpcError as error:
                answered[error.code().name] += 1
    return answered


def _ejected(admin: str) -> set[str]:
    (cluster,) = hosts(admin).values()
    places = [(host["address"]["socket_address"], host["health_status"]) for host in cluster]
    return {f"{at['address']}:{at['port_value']}" for at, status in places if status.get("failed_outlier_check")}


async def test_a_server_that_fails_all_it_is_asked_gets_no_more_requests(
    publish_model, start_server, failing, tmp_path
) -> None:
    envoy_path()
    publish_model("m", "1.0.0", onnx_models.look_up())
    one, two = await start_server(), await start_server()
    for server in (one, two):
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
    broken, address = failing
    async with _envoy(tmp_path, str(one.grpc), str(two.grpc), address) as (at, admin):
        rounds = [await _ask(at) for _ in range(3)]  # Envoy's threads tell one another of it a moment later
        assert broken.asked >= 5, "it was asked as often as the others until then"
        assert sum(seen["UNAVAILABLE"] for seen in rounds) == broken.asked
        assert rounds[-1] == {"OK": REQUESTS}
        assert _ejected(admin) == {address}


async def test_a_version_that_fails_on_every_server_ejects_none(publish_model, start_server, failing, tmp_path) -> None:
    envoy_path()
    publish_model("m", "1.0.0", onnx_models.look_up())
    one, two = await start_server(), await start_server()
    for server in (one, two):
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
    broken, address = failing
    broken.code = grpc.StatusCode.INTERNAL
    async with _envoy(tmp_path, str(one.grpc), str(two.grpc), address) as (at, admin):
        assert await _ask(at, index=1000) == {"INTERNAL": REQUESTS}
        assert _ejected(admin) == set()
        assert broken.asked >= REQUESTS // 4
