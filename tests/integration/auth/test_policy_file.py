"""A policy file that is written while it is read, or that the system cannot read for a while."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from auth_wire import AUTH, grant, write_policy
from onnx_models import scaled
from published import Publish
from started_servers import StartServer
from turnout.app.server import Running
from turnout.config import files
from turnout.errors import ConfigError
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, request


async def predicted(server: Running) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        try:
            await PredictionServiceStub(channel).Predict(request("fraud", x=X), timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def failed(server: Running) -> bool:
    authority = server.parts.base.authority
    return authority is not None and authority.policy_failed


@pytest.mark.parametrize("rest", ["", "\n \n"], ids=["nothing", "blank"])
async def test_a_policy_file_that_was_cut_off_takes_nobodys_role(
    tmp_path: Path, publish_model: Publish, start_server: StartServer, rest: str
) -> None:
    publish_model("fraud", "1.0.0", scaled(2.0))
    file = tmp_path / "policy.toml"
    policy = write_policy(file, grant(["anonymous"], ["predict"]))
    server = await start_server(auth=AUTH | {"policy": policy, "poll_interval_s": 0.02})
    file.write_text(rest)
    await until(lambda: failed(server))
    assert await predicted(server) is grpc.StatusCode.OK
    file.write_text("# nobody has a role\n")
    await until(lambda: not failed(server))
    assert await predicted(server) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_server_does_not_start_with_an_empty_policy_file(tmp_path: Path, start_server: StartServer) -> None:
    (tmp_path / "policy.toml").touch()
    with pytest.raises(ConfigError, match=r"policy.toml is empty, expected"):
        await start_server(auth=AUTH | {"policy": str(tmp_path / "policy.toml")})


async def test_a_policy_file_that_could_not_be_read_is_read_again_although_it_did_not_change(
    tmp_path: Path, publish_model: Publish, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_model("fraud", "1.0.0", scaled(2.0))
    monkeypatch.setattr("turnout.auth.authority._RETRY_SECONDS", 0.01)
    policy = write_policy(tmp_path / "policy.toml", grant(["anonymous"], ["read"]))
    server = await start_server(auth=AUTH | {"policy": policy, "poll_interval_s": 0.02})
    with monkeypatch.context() as patch:

        def full(path: str) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patch.setattr(files, "open_regular", full)
        write_policy(tmp_path / "policy.toml", grant(["anonymous"], ["predict"]))
        await until(lambda: failed(server))
        assert await predicted(server) is grpc.StatusCode.UNAUTHENTICATED
    await until(lambda: not failed(server))
    assert await predicted(server) is grpc.StatusCode.OK
