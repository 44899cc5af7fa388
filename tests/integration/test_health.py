"""grpc.health.v1, reflection and channelz."""

import asyncio

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from semver import Version

from onnx_models import scaled
from turnout.rpc.health import HealthServicer
from wire import refusal

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.mark.parametrize(
    "service", ["", "turnout.v1.PredictionService", "inference.GRPCInferenceService", "model:m", "model:m@^1"]
)
async def test_what_answers_is_serving(publish_model, start_server, service) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == SERVING


@pytest.mark.parametrize("service", ["nobody", "model:q", "model:m@^2", "model:m@^^"])
async def test_a_name_that_nothing_has_is_an_error_to_check(publish_model, start_server, service) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        refused = await refusal(stub.Check(health_pb2.HealthCheckRequest(service=service)))
    assert refused.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


async def test_watch_tells_each_change(publish_model, start_server) -> None:
    publish_model("other", "1.0.0", scaled(1))
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel, asyncio.timeout(20):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="model:m@^1"))
        assert (await watch.read()).status == UNKNOWN
        publish_model("m", "1.0.0", scaled(1))
        status = UNKNOWN
        while status != SERVING:
            status = (await watch.read()).status
        await server.services.manager.unload("m", Version(1))
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


async def test_a_change_between_a_look_and_the_wait_for_the_next_is_told(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    services = (await start_server()).services
    loop, is_ready = asyncio.get_running_loop(), [False]
    servicer = HealthServicer(services.catalog, services.router, lambda: is_ready[0], frozenset())
    watch = servicer.Watch(health_pb2.HealthCheckRequest(service=""), None)

    def change() -> None:
        is_ready[0] = True
        services.catalog.swap(services.catalog.snapshot)

    looked = asyncio.ensure_future(anext(watch))
    loop.call_soon(change)  # runs right after that look
    assert (await looked).status == NOT_SERVING
    async with asyncio.timeout(0.5):
        assert (await anext(watch)).status == SERVING
    is_ready[0] = False  # as where the state store is gone: the catalog stays as it is
    async with asyncio.timeout(20):
        assert (await anext(watch)).status == NOT_SERVING
    await watch.aclose()


async def test_reflection_lists_what_each_listener_serves(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    assert "turnout.v1.PredictionService" in await _listed(server.grpc)
    assert "turnout.v1.ControlService" not in await _listed(server.grpc)
    assert "turnout.v1.ControlService" in await _listed(server.control)


async def test_channelz_is_on_the_control_listener_only(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    asked = channelz_pb2.GetServersRequest()
    async with grpc.aio.insecure_channel(str(server.control)) as channel:
        assert (await channelz_pb2_grpc.ChannelzStub(channel).GetServers(asked)).server
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        refused = await refusal(channelz_pb2_grpc.ChannelzStub(channel).GetServers(asked))
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED


async def _listed(address) -> set[str]:
    async with grpc.aio.insecure_channel(str(address)) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        return {service.name for service in (await call.read()).list_services_response.service}
