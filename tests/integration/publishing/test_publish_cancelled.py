"""A publish whose model is being tried out ends when its client leaves, when the server stops, and on Ctrl-C."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

import onnx_models
from auth_wire import AUTH, bearer, make_token, revoke_token
from registry_wire import Files, beginning, pieces, registry_of, upload
from started_servers import StartServer, make_settings
from turnout.app.server import Running, running
from turnout.registry.storage.staging import STAGING
from turnout.serving.sandbox.fork_server import SHARED
from turnout.telemetry.logging import make_logger
from turnout_proto.v1 import registry_pb2 as pb
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub

BOUND = 100.0
"""Far more than an end takes, and far less than the run that is ended."""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where trial runs have their scratch directories."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def trying(scratch: Path) -> bool:
    return any(scratch.glob("turnout-trial-*/attempt"))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not true():
            await asyncio.sleep(0.01)


Publishing = tuple[Running, str, "asyncio.Task[None]"]


@pytest.fixture
async def publishing(start_server: StartServer, scratch: Path) -> AsyncIterator[Publishing]:
    """A server that tries out a model whose run does not end."""
    server = await start_server()
    files: Files = {"model.onnx": onnx_models.endless().SerializeToString()}
    async with registry_of(server) as registry:
        upload_id = await upload(registry, files)

        async def publish() -> None:
            await registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id))

        task = asyncio.create_task(publish())
        await until(lambda: trying(scratch) or task.done())
        assert not task.done()
        yield server, upload_id, task
        task.cancel()


async def test_a_trial_whose_client_left_ends(publishing: Publishing, scratch: Path, models: Path) -> None:
    server, upload_id, task = publishing
    task.cancel()
    await until(lambda: not list(scratch.glob("turnout-*")))
    await until(lambda: len([home for home in (models / STAGING).iterdir() if home.is_dir()]) == 1)  # the upload's own
    async with registry_of(server) as registry, asyncio.timeout(BOUND):
        while True:  # what held it lets go once its thread has ended
            try:
                await registry.AbandonUpload(pb.AbandonUploadRequest(upload_id=upload_id))
                break
            except grpc.aio.AioRpcError as refused:
                if refused.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.01)
    assert [home for home in (models / STAGING).iterdir() if home.is_dir()] == []


@pytest.mark.parametrize("why", ["revoked", "expired"])
async def test_a_publish_ends_if_its_token_is_revoked_and_outlasts_its_expiry(
    start_server: StartServer, scratch: Path, models: Path, why: str
) -> None:
    server = await start_server(auth=AUTH)
    soon = timedelta(seconds=12) if why == "expired" else None  # far more than it takes to begin
    token = bearer(make_token(models, "ci", ["publish", "operate"], ["m"], ends_in=soon))
    async with grpc.aio.insecure_channel(str(server.control)) as channel:
        registry = RegistryServiceStub(channel)
        files: Files = {"model.onnx": onnx_models.endless().SerializeToString()}
        async with asyncio.timeout(BOUND):
            while await registry.BeginUpload(beginning(files), metadata=token).code() is not grpc.StatusCode.OK:
                await asyncio.sleep(0.01)  # the server has yet to find the token
        begun = await registry.BeginUpload(beginning(files), metadata=token)
        await registry.UploadFiles(pieces(begun.upload_id, files), metadata=token)
        call = registry.PublishUpload(pb.PublishUploadRequest(upload_id=begun.upload_id, release=True), metadata=token)
        ended = asyncio.ensure_future(call.code())
        await until(lambda: trying(scratch) or ended.done())
        assert not ended.done()
        if why == "revoked":
            revoke_token(models, "ci")
            async with asyncio.timeout(BOUND):
                assert await ended is grpc.StatusCode.UNAUTHENTICATED
            assert "expired or was revoked" in str(await call.details())
            await until(lambda: not list(scratch.glob("turnout-*")))
            assert not (models / "m").exists()
        else:
            async with asyncio.timeout(BOUND):
                refused = grpc.StatusCode.OK
                while refused is not grpc.StatusCode.UNAUTHENTICATED:
                    await asyncio.sleep(0.05)
                    again = registry.DescribeUpload(pb.DescribeUploadRequest(upload_id="x"), metadata=token)
                    refused = await again.code()
            assert not ended.done()
            call.cancel()
            await ended


async def test_a_server_that_stops_ends_trials_and_says_so(scratch: Path, models: Path) -> None:
    files: Files = {"model.onnx": onnx_models.endless().SerializeToString()}
    async with AsyncExitStack() as after:
        async with running(make_settings(models), make_logger("json", "error")) as server:
            registry = await after.enter_async_context(registry_of(server))  # the client outlives the server
            upload_id = await upload(registry, files)
            call = registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id))
            waiting = asyncio.ensure_future(call.code())
            await until(lambda: trying(scratch) or waiting.done())
            assert not waiting.done()
            began = time.monotonic()
        assert time.monotonic() - began < BOUND / 2
        assert (await waiting, await call.details()) == (grpc.StatusCode.UNAVAILABLE, "the server stops")
    assert list(scratch.glob("turnout-*")) == []
    assert [home for home in (models / STAGING).iterdir() if home.is_dir()] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_publish_that_is_ended_takes_all_with_it(tmp_path: Path, number: signal.Signals) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    source = onnx_models.save(onnx_models.endless(), tmp_path / "m.onnx")
    command = [sys.executable, "-m", "turnout", "publish", "m", "1.0.0", source, "--models", tmp_path / "models"]
    environment = {name: value for name, value in os.environ.items() if name != SHARED}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment | {"TMPDIR": str(scratch)}
    ) as process:
        limit = time.monotonic() + 150
        while not trying(scratch):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(number)
        code = process.wait(BOUND)
    assert code in {signal.SIGINT: (1, 130), signal.SIGTERM: (143,)}[number]
    assert list(scratch.glob("turnout-*")) == []
    assert [path for path in (tmp_path / "models" / STAGING).iterdir() if path.is_dir()] == []
    assert not (tmp_path / "models" / "m").exists()
