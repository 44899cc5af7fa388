"""While a server drains, each listener refuses what comes, until the last request in progress on any is answered."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from held import held_conversions
from onnx_models import scaled
from started_servers import TRANSPORTS
from stopping import retry_seconds, stopping
from turnout.app.server import Running
from turnout.config import Drain
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, request

LARGE = np.zeros((2**17, 4), np.float32)


@asynccontextmanager
async def grpc_in_progress(server: Running) -> AsyncIterator[Callable[[], asyncio.Task[bool]]]:
    """Has a call in progress, whose end the yielded function brings about; its task returns whether it was answered."""
    conversions = server.parts.serving.conversions._calls
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        with held_conversions(server) as go_on:
            call = PredictionServiceStub(channel).Predict(request("m", x=LARGE))
            async with asyncio.timeout(60):
                while not conversions:
                    await asyncio.sleep(0.01)

            async def end() -> bool:
                go_on.set()
                return await call.code() is grpc.StatusCode.OK

            yield lambda: asyncio.create_task(end())


@asynccontextmanager
async def http_in_progress(server: Running) -> AsyncIterator[Callable[[], asyncio.Task[bool]]]:
    """The same for a request over HTTP."""
    reader, writer = await asyncio.open_connection(server.http.host, server.http.port)
    body = b'{"inputs": {"x": [[1, 2, 3, 4]]}}'
    writer.write(b"POST /predict/m HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body[:5])
    async with asyncio.timeout(60):
        while not server.admission.under_way:
            await asyncio.sleep(0.01)

    async def end() -> bool:
        writer.write(body[5:])
        return (await reader.readline()).startswith(b"HTTP/1.1 200 ")

    yield lambda: asyncio.create_task(end())
    writer.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("in_progress", [grpc_in_progress, http_in_progress], ids=["gRPC", "HTTP"])
async def test_no_listener_ends_before_the_last_request_of_all(publish_model, models, transport, in_progress) -> None:
    publish_model("m", "1.0.0", scaled(2))
    drain = Drain(delay_s=0.0, timeout_s=600.0)
    async with (
        stopping(models, drain=drain, transport={"data": transport}) as (server, stop),
        in_progress(server) as end,
        httpx.AsyncClient(base_url=f"http://{server.http}") as client,
    ):
        stop.set()
        await asyncio.wait_for(server.services.inference.draining.wait(), 60)
        for _ in range(3):
            async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await PredictionServiceStub(channel).Predict(request("m", x=X), wait_for_ready=True)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                assert retry_seconds(refused.value) > 0
                health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert health.status == health.NOT_SERVING
            answer = await client.post("/predict/m", json={"inputs": {"x": [[1, 2, 3, 4]]}})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            probes = [(await client.get(path)).status_code for path in ("/livez", "/readyz", "/metrics")]
            assert probes == [200, 503, 200]
            await asyncio.sleep(0.1)  # so that a listener that has nothing in progress could end
        assert await end()
