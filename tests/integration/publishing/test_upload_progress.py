"""How far the publish of an upload has got, while gates run."""

import asyncio
from typing import Any

import grpc

import onnx_models
from registry_wire import Files, registry_of, upload
from started_servers import StartServer
from turnout_proto.v1 import registry_pb2 as pb
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub
from wire import refusal


async def progress(registry: RegistryServiceStub, upload_id: str) -> pb.PublishProgress:
    described = await registry.DescribeUpload(pb.DescribeUploadRequest(upload_id=upload_id, progress=True))
    assert not described.HasField("version")
    assert described.HasField("progress")
    return described.progress


async def test_a_publish_says_which_gate_runs_and_for_how_long(start_server: StartServer) -> None:
    server = await start_server(transfers={"max_uploads": 1})  # its only thread runs the gates
    files: Files = {"model.onnx": onnx_models.endless().SerializeToString()}
    async with registry_of(server) as registry, asyncio.timeout(200):
        upload_id = await upload(registry, files)
        assert await progress(registry, upload_id) == pb.PublishProgress()
        call: Any = registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id))
        task = asyncio.ensure_future(call.code())
        while (first := await progress(registry, upload_id)).gate != "load":
            assert not task.done()
            await asyncio.sleep(0.01)
        while (later := await progress(registry, upload_id)).seconds <= first.seconds:
            await asyncio.sleep(0.01)
        assert later.gate == "load"
        call.cancel()
        while (await progress(registry, upload_id)).gate:
            await asyncio.sleep(0.01)
        await asyncio.wait([task])
        assert await progress(registry, upload_id) == pb.PublishProgress()


async def test_an_older_client_is_told_to_wait_while_a_publish_runs(start_server: StartServer) -> None:
    server = await start_server()
    files: Files = {"model.onnx": onnx_models.endless().SerializeToString()}
    async with registry_of(server) as registry, asyncio.timeout(200):
        upload_id = await upload(registry, files)
        call: Any = registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id))
        task = asyncio.ensure_future(call.code())
        while not (await progress(registry, upload_id)).gate:
            await asyncio.sleep(0.01)
        error = await refusal(registry.DescribeUpload(pb.DescribeUploadRequest(upload_id=upload_id)))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        call.cancel()
        await asyncio.wait([task])


async def test_there_is_no_progress_of_an_upload_that_does_not_exist(start_server: StartServer) -> None:
    async with registry_of(await start_server()) as registry:
        error = await refusal(registry.DescribeUpload(pb.DescribeUploadRequest(upload_id="x", progress=True)))
        assert error.code is grpc.StatusCode.NOT_FOUND
