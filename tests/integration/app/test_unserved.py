"""A server that serves nothing although something is there to be served is not ready, and says which."""

import json
from pathlib import Path

import httpx
import pytest

import onnx_models
import triton_models
from processes import turnout
from started_servers import make_settings
from turnout.app.server import running
from turnout.registry.storage.repository import Repository
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.telemetry.logging import make_logger


async def ready(server) -> tuple[int, list[str]]:
    async with httpx.AsyncClient() as client:
        got = await client.get(f"http://{server.http}/readyz")
    return got.status_code, got.text.splitlines()


async def is_ready(server) -> None:
    """Waits until something serves."""
    await server.services.catalog.wait_for(
        lambda snapshot: any(
            e.state is LifecycleState.READY for m in snapshot.models.values() for e in m.versions.values()
        )
    )
    assert await ready(server) == (200, ["ready"])


async def test_an_empty_repository_is_ready(models: Path, start_server) -> None:
    (models / "lost+found").mkdir(parents=True)
    (models / "m" / "1.0.0").mkdir(parents=True)
    status, _ = await ready(await start_server())
    assert status == 200


async def test_loose_files_are_named_with_the_one_command_until_it_is_run(models: Path, start_server, capfd) -> None:
    models.mkdir()
    file = onnx_models.save(onnx_models.scaled(2), models / "Scale.v1.onnx")
    server = await start_server()
    assert await ready(server) == (503, ["not ready", "Scale.v1.onnx is not in a version directory and is not served"])
    reason = json.loads(capfd.readouterr().err.splitlines()[0])["reason"]
    command = reason.partition("publish it with: turnout ")[2]
    assert command == f"publish Scale.v1 auto {file} --release --models {models}"
    turnout(*command.split(" "))
    await is_ready(server)
    assert Repository(models).scan().problems == ()


async def test_a_file_in_a_models_directory_is_named_too(models: Path, tmp_path: Path) -> None:
    (models / "m").mkdir(parents=True)
    onnx_models.save(onnx_models.scaled(2), models / "m" / "weights.onnx")
    onnx_models.save(onnx_models.scaled(2), models / "no name.onnx")
    commands = [p.command for p in Repository(models).scan().problems]
    assert [command.split(" ")[2] for command in commands] == ["NAME", "m"]
    turnout(*commands[1].split(" ")[1:])
    assert [p.model for p in Repository(models).scan().problems] == ["NAME"]


async def test_a_triton_tree_is_told_the_one_command_which_makes_it_served(models: Path, start_server, capfd) -> None:
    triton_models.three_models(models)
    server = await start_server()
    status, lines = await ready(server)
    assert (status, lines[0], len(lines)) == (503, "not ready", 7)
    assert "scores 3 has no manifest and is not served" in lines
    (reason,) = [
        json.loads(line)["reason"] for line in capfd.readouterr().err.splitlines() if "publish it with" in line
    ]
    command = reason.partition("publish it with: turnout ")[2]
    assert command == f"import triton {models} --models {models}"
    turnout(*command.split(" "))
    await is_ready(server)
    assert Repository(models).scan().problems == ()


async def test_versions_that_all_failed_are_named_and_one_that_serves_is_enough(
    models: Path, publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2))
    file = models / "m" / "1.0.0" / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(b"\0" * file.stat().st_size)
    server = await start_server()
    status, lines = await ready(server)
    assert (status, lines[0]) == (503, "not ready")
    assert lines[1].startswith("m 1.0.0 failed: ")
    async with httpx.AsyncClient() as client:
        body = (await client.get(f"http://{server.http}/readyz", headers={"accept": "application/json"})).json()
    assert (body["ready"], body["unserved"]) == (False, lines[1:])
    publish_model("m", "1.0.1", onnx_models.scaled(2))
    await is_ready(server)


@pytest.mark.parametrize("left", ["1.0.0", "1"])
async def test_what_lies_beside_a_version_that_serves_keeps_nobody_away(models: Path, publish_model, left: str) -> None:
    publish_model("other", "1.0.0", onnx_models.scaled(2))
    (models / "m" / left).mkdir(parents=True)
    onnx_models.save(onnx_models.scaled(2), models / "m" / left / "model.onnx")
    async with running(make_settings(models), make_logger("json", "error")) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        assert await ready(server) == (200, ["ready"])
