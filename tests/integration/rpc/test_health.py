"""grpc.health.v1, reflection and channelz."""

import asyncio
import contextlib

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest as Question
from semver import Version

from onnx_models import scaled
from turnout.rpc import server as rpc_server
from turnout.rpc.standard_services import health
from turnout.rpc.standard_services.health import HealthServicer
from wire import X, refusal

pytestmark = pytest.mark.both_transports

one_server = pytest.mark.asyncio(loop_scope="module")
"""Of tests that change nothing on the server which they share."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SYMBOLS = (
    "inference.GRPCInferenceService.ModelInfer",
    "inference.ModelInferRequest.InferInputTensor",
    "inference.ModelInferRequest.InferInputTensor.shape",
    "inference.DataType",
    "inference.DATA_TYPE_FP16",
    "turnout.v1.PredictionService.Predict",
    "google.rpc.Status",
)
ON_BOTH = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
    "turnout.v1.CatalogService",
    "turnout.v1.PredictionService",
}
ON_CONTROL_ONLY = {"grpc.channelz.v1.Channelz", "turnout.v1.ControlService", "turnout.v1.RegistryService"}
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture(scope="module")
def all_models(publish_for_module) -> None:
    publish_for_module("m", "1.0.0", scaled(2))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(all_models, start_server_for_module):
    return await start_server_for_module()


@one_server
@pytest.mark.parametrize(
    "service", ["", "turnout.v1.PredictionService", "inference.GRPCInferenceService", "model:m", "model:m@^1"]
)
async def test_what_answers_is_serving(server, service) -> None:
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == SERVING


@one_server
@pytest.mark.parametrize("listener", ["grpc", "control"])
async def test_every_service_that_reflection_lists_is_serving(server, listener) -> None:
    async with grpc.aio.insecure_channel(str(getattr(server, listener))) as channel, asyncio.timeout(100):
        stub = health_pb2_grpc.HealthStub(channel)
        for service in await Reflection(channel, "v1").listed():
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING, service


@one_server
@pytest.mark.parametrize("service", ["nobody", "model:q", "model:m@^2", "model:m@^^"])
async def test_a_name_that_nothing_has_is_an_error_to_check(server, service) -> None:
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        refused = await refusal(stub.Check(health_pb2.HealthCheckRequest(service=service)))
    assert refused.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


async def test_watch_tells_each_change(publish_model, start_server) -> None:
    publish_model("other", "1.0.0", scaled(1))
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel, asyncio.timeout(100):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="model:m@^1"))
        assert (await watch.read()).status == UNKNOWN
        publish_model("m", "1.0.0", scaled(1))
        status = UNKNOWN
        while status != SERVING:
            status = (await watch.read()).status
        await server.parts.serving.manager.unload("m", Version(1))
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


async def test_a_change_between_a_look_and_the_wait_for_the_next_is_told(
    publish_model, start_server, monkeypatch
) -> None:
    monkeypatch.setattr(health, "_LOOK_SECONDS", 1000.0)  # what is told sooner was not looked for
    publish_model("m", "1.0.0", scaled(1))
    services = (await start_server()).services
    loop, is_ready = asyncio.get_running_loop(), [False]
    servicer = HealthServicer(services.catalog, services.router, lambda: is_ready[0], frozenset())
    statuses: asyncio.Queue[health_pb2.HealthCheckResponse] = asyncio.Queue()

    def change() -> None:
        is_ready[0] = True
        services.catalog.swap(services.catalog.snapshot)

    watch = asyncio.ensure_future(servicer.Watch(health_pb2.HealthCheckRequest(service=""), statuses.put))
    loop.call_soon(change)  # runs right after the first look
    assert (await statuses.get()).status == NOT_SERVING
    monkeypatch.setattr(health, "_LOOK_SECONDS", 0.1)
    async with asyncio.timeout(100):
        assert (await statuses.get()).status == SERVING
    is_ready[0] = False  # as where the state store is gone: the catalog stays as it is
    async with asyncio.timeout(100):
        assert (await statuses.get()).status == NOT_SERVING
    watch.cancel()


@one_server
@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_every_service_that_reflection_lists_is_described_and_can_be_called(server, version) -> None:
    for address in (server.grpc, server.control):
        async with grpc.aio.insecure_channel(str(address)) as channel, asyncio.timeout(100):
            reflect = Reflection(channel, version)
            names = await reflect.listed()
            assert names >= ON_BOTH
            assert names - ON_BOTH == (ON_CONTROL_ONLY if address == server.control else set())
            for name in names:
                for method in (await reflect.described(name)).methods:
                    # Bytes that are no message change nothing, and only a method that is there refuses them.
                    call = channel.stream_stream(f"/{name}/{method.name}")(iter([b"\xff\xff\xff"]))
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await call.read()
                    call.cancel()  # where each item is answered by itself
                    known = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK)
                    if (name, method.name) == ("grpc.health.v1.Health", "List"):  # of newer releases, not implemented
                        known = (grpc.StatusCode.UNIMPLEMENTED,)
                    assert await call.code() in known, (name, method.name)


@one_server
async def test_a_client_that_knows_nothing_but_reflection_runs_a_model(server) -> None:
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel, asyncio.timeout(100):
        service = await Reflection(channel, "v1").described("inference.GRPCInferenceService")
        method = service.methods_by_name["ModelInfer"]
        request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        assert request_type.DESCRIPTOR.full_name == "inference.ModelInferRequest"
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
        request = request_type(model_name="m", inputs=[tensor], raw_input_contents=[X.tobytes()])
        infer = channel.unary_unary(f"/{service.full_name}/ModelInfer")
        response = response_type.FromString(await infer(request.SerializeToString()))
    assert response.raw_output_contents[0] == (X * 2).tobytes()


@one_server
@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (Question(file_containing_symbol="inference.Nothing"), grpc.StatusCode.NOT_FOUND),
        (Question(file_by_filename="../inference.proto"), grpc.StatusCode.NOT_FOUND),
        (Question(all_extension_numbers_of_type="nothing"), grpc.StatusCode.NOT_FOUND),
        (Question(file_containing_extension={"containing_type": "inference.ModelInferRequest", "extension_number": 1}),
         grpc.StatusCode.NOT_FOUND),
        (Question(), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)  # fmt: skip
async def test_reflection_says_what_it_does_not_know_and_answers_on(server, asked, code) -> None:
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel, asyncio.timeout(100):
        reflect = Reflection(channel, "v1")
        assert (await reflect.ask(asked)).error_response.error_code == code.value[0]
        assert (await reflect.ask(Question(all_extension_numbers_of_type="inference.ModelInferRequest"))).HasField(
            "all_extension_numbers_response"
        )
        for symbol in SYMBOLS:
            answer = await reflect.ask(Question(file_containing_symbol=symbol))
            assert answer.HasField("file_descriptor_response"), symbol


@one_server
async def test_channelz_is_on_the_control_listener_only(server) -> None:
    asked = channelz_pb2.GetServersRequest()
    async with grpc.aio.insecure_channel(str(server.control)) as channel:
        assert (await channelz_pb2_grpc.ChannelzStub(channel).GetServers(asked)).server
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        refused = await refusal(channelz_pb2_grpc.ChannelzStub(channel).GetServers(asked))
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED


class Reflection:
    """Asks a server what it serves, as a client without its .proto files does."""

    def __init__(self, channel: grpc.aio.Channel, version: str) -> None:
        self._call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")()
        self._pool = DescriptorPool()
        self._known: set[str] = set()

    async def ask(self, question: Question) -> reflection_pb2.ServerReflectionResponse:
        await self._call.write(question.SerializeToString())
        return reflection_pb2.ServerReflectionResponse.FromString(await self._call.read())

    async def listed(self) -> set[str]:
        answer = await self.ask(Question(list_services="*"))
        return {service.name for service in answer.list_services_response.service}

    async def described(self, service: str) -> ServiceDescriptor:
        answer = await self.ask(Question(file_containing_symbol=service))
        files = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
        waiting = {file.name: file for file in files if file.name not in self._known}
        while waiting:
            ready = next(file for file in waiting.values() if not waiting.keys() & set(file.dependency))
            self._pool.Add(waiting.pop(ready.name))
            self._known.add(ready.name)
        return self._pool.FindServiceByName(service)


@pytest.mark.parametrize("name", ["_HEALTH", "_CHANNELZ", "REFLECTION_ALPHA"])
async def test_a_method_that_a_newer_release_of_a_dependency_adds_is_unimplemented(
    start_server, monkeypatch, name
) -> None:
    """`grpcio-health-checking` has had `List` since a release after 1.81, and has no upper bound."""
    service = getattr(rpc_server, name)
    proto = FileDescriptorProto.FromString(service.file.serialized_pb)
    added = next(one for one in proto.service if one.name == service.name).method.add()
    added.CopyFrom(proto.service[0].method[0])
    added.name = "AddedLater"
    pool = DescriptorPool()
    for dependency in service.file.dependencies:
        pool.AddSerializedFile(dependency.serialized_pb)
    pool.AddSerializedFile(proto.SerializeToString())
    monkeypatch.setattr(rpc_server, name, pool.FindServiceByName(service.full_name))
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.control)) as channel, asyncio.timeout(100):
        call = channel.unary_unary(f"/{service.full_name}/AddedLater")
        refused = await refusal(call(b""))
        assert (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())).status == SERVING
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED
