"""Versions come and go beside the traffic."""

import asyncio

import grpc
import numpy as np
import pytest
from semver import Version

from held import held_loads, held_runs
from onnx_models import scaled, slow
from turnout.config import ModelOverrides, Runtime, Settings
from turnout.errors import NotLoaded
from turnout.serving.versions.lifecycle import LifecycleState
from turnout_proto.v1 import catalog_pb2, catalog_pb2_grpc, control_pb2, control_pb2_grpc
from wire import X, outputs_of, refusal, request, stub_of

ONE, TWO = Version(1, 0, 0), Version(2, 0, 0)


def _state(server, version: Version) -> LifecycleState | None:
    model = server.services.catalog.snapshot.models.get("m")
    entry = model.versions.get(version) if model else None
    return entry.state if entry else None


async def _until(server, condition) -> None:
    async with asyncio.timeout(100):
        await server.services.catalog.wait_for(lambda _: condition())


async def test_a_publish_by_anybody_is_served_within_a_moment(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    publish_model("m", "2.0.0", scaled(2), release=False)
    await _until(server, lambda: _state(server, TWO) is LifecycleState.READY)
    async with stub_of(server) as stub:
        pinned = await stub.Predict(request("m", "2.0.0", x=X))
        plain = await stub.Predict(request("m", x=X))
    assert (pinned.route.version, plain.route.version) == ("2.0.0", "1.0.0")


async def version_by_tag(stub) -> str | None:
    try:
        return (await stub.Predict(request("m", "old", x=X))).route.version
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return None


async def test_a_release_and_a_tag_come_into_force_by_themselves(publish_model, start_server) -> None:
    assert Settings().repository.poll_interval_s < 0.5, "within a second, on a machine that has one to spare"
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2), release=False)
    server = await start_server()
    release_writer = server.parts.rollouts.release_writer
    async with stub_of(server) as stub, asyncio.timeout(100):
        await asyncio.to_thread(server.parts.base.store.release, "m", TWO, actor="test", reason="")
        await asyncio.to_thread(release_writer.set_tag, "m", "old", ONE, actor="test", reason="")
        while (await stub.Predict(request("m", x=X))).route.version != "2.0.0":
            await asyncio.sleep(0.01)
        while (by_tag := await version_by_tag(stub)) is None:  # it may come a poll later
            await asyncio.sleep(0.01)
        assert by_tag == "1.0.0"


async def test_only_the_latest_are_loaded_where_that_is_configured(publish_model, start_server) -> None:
    for major in (1, 2, 10):
        publish_model("m", f"{major}.0.0", scaled(major))
    server = await start_server(model={"m": ModelOverrides(load="latest:2")})
    assert _state(server, Version(10)) is LifecycleState.READY
    assert _state(server, TWO) is LifecycleState.READY
    assert _state(server, ONE) is LifecycleState.NEW


async def test_only_what_the_selectors_name_is_loaded_where_that_is_configured(publish_model, start_server) -> None:
    for minor in range(3):
        publish_model("m", f"1.{minor}.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server(model={"m": ModelOverrides(load=["^1", "1.0.0"])})
    ready = {str(e.version) for e in server.services.catalog.snapshot.models["m"].versions.values() if e.handle}
    assert ready == {"1.2.0", "1.0.0"}


async def test_a_range_is_answered_by_what_is_ready_while_a_higher_version_loads(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    with held_loads():
        publish_model("m", "2.0.0", scaled(2))
        await _until(server, lambda: _state(server, TWO) is not None)
        async with stub_of(server) as stub:
            answer = await stub.Predict(request("m", ">=1 <3", x=X))
    assert answer.route.version == "1.0.0"


async def test_a_load_that_fails_leaves_what_served_before(publish_model, start_server, models) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    path = models / "m" / "2.0.0" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    server = await start_server()
    assert _state(server, TWO) is LifecycleState.FAILED
    async with stub_of(server) as stub:
        answer = await stub.Predict(request("m", x=X))
    assert answer.route.version == "1.0.0"
    with pytest.raises(NotLoaded, match="could not be loaded"):
        await server.parts.serving.manager.load("m", TWO)


async def test_unloading_waits_for_the_requests_under_way(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    server = await start_server(runtime=Runtime(runners=1, inline_threshold_us=0))
    async with stub_of(server) as stub:
        with held_runs(server, "m"):
            call = stub.Predict(request("m", x=X, n=np.int64(1)))
            handle = server.services.catalog.snapshot.models["m"].versions[ONE].handle
            async with asyncio.timeout(100):
                while not handle.inflight:
                    await asyncio.sleep(0.001)
            unloading = asyncio.create_task(server.parts.serving.manager.unload("m", ONE))
            await _until(server, lambda: _state(server, ONE) is LifecycleState.DRAINING)
            refused = await refusal(stub.Predict(request("m", "1.0.0", x=X, n=np.int64(1))))
        answer = await call
        await unloading
    assert answer.outputs
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert _state(server, ONE) is LifecycleState.UNLOADED
    assert handle.loaded is None


async def test_loading_and_unloading_under_load_fails_no_request(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server()
    stop = asyncio.Event()
    cycles = answered = 0

    async def client(stub) -> None:
        nonlocal answered
        while not stop.is_set():
            answer = await stub.Predict(request("m", x=X))
            factor = 1 if answer.route.version == "1.0.0" else 2
            np.testing.assert_array_equal(outputs_of(answer)["y"], factor * X)
            answered += 1
            await asyncio.sleep(0.02)  # loads wait for a moment without a request

    async with stub_of(server) as stub, asyncio.timeout(200):
        clients = [asyncio.create_task(client(stub)) for _ in range(4)]
        while (cycles < 30 or answered <= 100) and not any(one.done() for one in clients):
            await server.parts.serving.manager.unload("m", TWO)
            await server.parts.serving.manager.load("m", TWO)
            cycles += 1
        stop.set()
        await asyncio.gather(*clients)
    assert cycles >= 30
    assert answered > 100


async def test_operators_load_unload_release_and_tag_over_the_control_listener(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1), release=False)
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.control)) as channel:
        control = control_pb2_grpc.ControlServiceStub(channel)
        unloaded = await control.UnloadVersion(control_pb2.UnloadVersionRequest(model="m", version="1.0.0"))
        loaded = await control.LoadVersion(control_pb2.LoadVersionRequest(model="m", version="v1.0.0"))
        released = await control.ReleaseVersion(control_pb2.ReleaseVersionRequest(model="m", version="1.0.0"))
        tagged = await control.SetTag(control_pb2.SetTagRequest(model="m", tag="stable", version="1.0.0", actor="me"))
        reserved = await refusal(control.SetTag(control_pb2.SetTagRequest(model="m", tag="latest", version="1.0.0")))
        removed = await control.DeleteTag(control_pb2.DeleteTagRequest(model="m", tag="stable"))
        unknown = await refusal(control.LoadVersion(control_pb2.LoadVersionRequest(model="m", version="7.0.0")))
        catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        model = (await catalog.GetModel(catalog_pb2.GetModelRequest(model="m"))).model
    assert unloaded.version.state == catalog_pb2.VERSION_STATE_UNLOADED
    assert loaded.version.state == catalog_pb2.VERSION_STATE_READY
    assert released.changed
    assert tagged.previous_version == ""
    assert reserved.code is grpc.StatusCode.INVALID_ARGUMENT
    assert removed.previous_version == "1.0.0"
    assert unknown.code is grpc.StatusCode.NOT_FOUND
    assert model.default_version == "1.0.0"


async def test_the_data_listener_does_not_serve_control(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        control = control_pb2_grpc.ControlServiceStub(channel)
        refused = await refusal(control.UnloadVersion(control_pb2.UnloadVersionRequest(model="m", version="1.0.0")))
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED
