"""A repository that goes away unloads nothing, is told of, and comes back without a needless load."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from semver import Version

from onnx_models import scaled
from turnout.config import RepositorySettings
from turnout.errors import NotLoaded
from turnout.serving.versions.lifecycle import LifecycleState
from wire import X, outputs_of, request, stub_of

S = LifecycleState
ONE, TWO = Version(1), Version(2)


@pytest.fixture
def state(tmp_path: Path) -> str:
    """A state store beside the repository, so that one can be away without the other."""
    return f"sqlite:///{tmp_path / 'store' / 'state.db'}"


@pytest.fixture
def serve(publish_model, start_server, state):
    """Starts a server of 1.0.0 and 2.0.0 of m. Called by tests, so that what it logs is theirs to read."""

    async def start():
        publish_model("m", "1.0.0", scaled(1), release=False)
        publish_model("m", "2.0.0", scaled(2), release=False)
        running = await start_server(state=state, repository=RepositorySettings(poll_interval_s=0.05))
        for version in (ONE, TWO):
            await asyncio.to_thread(running.parts.base.store.release, "m", version, actor="test", reason="")
        await running.parts.serving.manager.refresh()
        return running

    return start


def _states(server) -> dict[Version, LifecycleState]:
    model = server.services.catalog.snapshot.models.get("m")
    return {} if model is None else {version: entry.state for version, entry in model.versions.items()}


async def _until(condition) -> None:
    async with asyncio.timeout(100):
        while not condition():
            await asyncio.sleep(0.02)


async def _answers(server) -> None:
    async with stub_of(server) as stub:
        for version, factor in (("", 2), ("1.0.0", 1), ("2.0.0", 2)):
            np.testing.assert_array_equal(outputs_of(await stub.Predict(request("m", version, x=X)))["y"], factor * X)


async def _metric(server, name: str) -> float:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{server.http}/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return float(line.split()[-1])


def _take_away(models: Path, how: str) -> None:
    models.rename(models.parent / "away")
    if how == "an empty directory":
        models.mkdir()
    elif how == "a file":
        models.write_text("")


def _bring_back(models: Path, how: str) -> None:
    if how == "an empty directory":
        shutil.rmtree(models)  # .staging may have been made meanwhile
    elif how == "a file":
        models.unlink()
    (models.parent / "away").rename(models)


@pytest.mark.parametrize("how", ["nothing", "an empty directory", "a file"])
async def test_a_repository_that_goes_away_and_comes_back(capsys, serve, models, publish_model, how) -> None:
    server = await serve()
    handles = [e.handle for e in server.services.catalog.snapshot.models["m"].versions.values()]
    _take_away(models, how)
    await _until(lambda: not server.parts.serving.manager.presence.available)
    assert _states(server) == {ONE: S.READY, TWO: S.READY}
    await _answers(server)
    assert await _metric(server, "turnout_repository_available") == 0
    async with httpx.AsyncClient() as client:
        ready = await client.get(f"http://{server.http}/readyz")
        readiness = (await client.get(f"http://{server.http}/readyz", headers={"accept": "application/json"})).json()
    assert ready.status_code == 200
    assert ready.text.startswith("ready\n")
    assert "the model repository" in ready.text
    assert readiness["ready"] is True
    assert [part["part"] for part in readiness["unavailable"]] == ["model repository"]
    # What is declared meanwhile is followed: the state store is there.
    await asyncio.to_thread(
        server.parts.rollouts.release_writer._store.set_tag, "m", "old", ONE, actor="test", reason=""
    )
    await _until(lambda: server.services.catalog.snapshot.models["m"].model_releases.tags == {"old": ONE})

    _bring_back(models, how)
    await _until(lambda: server.parts.serving.manager.presence.available)
    await _answers(server)
    assert [e.handle for e in server.services.catalog.snapshot.models["m"].versions.values()] == handles, "reloaded"
    assert await _metric(server, "turnout_repository_available") == 1
    publish_model("m", "3.0.0", scaled(3), release=False)
    await _until(lambda: _states(server).get(Version(3)) is S.READY)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    reasons = [event["reason"] for event in events if event["event"] == "model repository unavailable"]
    assert reasons, "it was told"
    assert len(set(reasons)) == len(reasons), "and no reason twice: one may be seen between two steps of the change"
    assert [event["event"] for event in events].count("model repository available again") == 1


async def test_a_version_asked_for_while_the_repository_is_away_loads_once_it_is_back(serve, models) -> None:
    server = await serve()
    await server.parts.serving.manager.unload("m", ONE)
    _take_away(models, "an empty directory")
    with pytest.raises(NotLoaded, match="is empty"):
        await server.parts.serving.manager.load("m", ONE)
    _bring_back(models, "an empty directory")
    await _until(lambda: _states(server)[ONE] is S.READY)


async def test_one_model_s_directory_that_cannot_be_read_unloads_nothing(serve, models, publish_model) -> None:
    server = await serve()
    publish_model("other", "1.0.0", scaled(5))
    await _until(lambda: "other" in server.services.catalog.snapshot.models)
    (models / "m").rename(models.parent / "away")
    (models / "m").symlink_to(models.parent / "nowhere")
    (models.parent / "nowhere").mkdir()
    await _until(lambda: not server.parts.serving.manager.presence.available)
    assert _states(server) == {ONE: S.READY, TWO: S.READY}
    await _answers(server)
    assert await _metric(server, "turnout_repository_available") == 0
    (models / "m").unlink()
    (models.parent / "away").rename(models / "m")
    await _until(lambda: server.parts.serving.manager.presence.available)
    assert _states(server) == {ONE: S.READY, TWO: S.READY}


async def test_a_loaded_version_whose_directory_vanishes_is_served_and_reported_until_it_is_unloaded(
    capsys, serve, models
) -> None:
    server = await serve()
    shutil.move(models / "m" / "2.0.0", models.parent / "away")
    await _until(lambda: server.parts.serving.manager.presence.missing)
    assert _states(server) == {ONE: S.READY, TWO: S.READY}
    await _answers(server)
    assert server.services.catalog.snapshot.models["m"].versions[TWO].reason.startswith("its files are gone")
    assert await _metric(server, "turnout_repository_available") == 1
    assert await _metric(server, "turnout_missing_versions") == 1
    assert "a loaded version is gone from the repository" in capsys.readouterr().err
    await server.parts.serving.manager.unload("m", TWO)
    await _until(lambda: TWO not in _states(server))
    assert await _metric(server, "turnout_missing_versions") == 0


async def test_a_version_that_is_not_in_memory_and_vanishes_leaves_the_catalog(serve, models) -> None:
    server = await serve()
    await server.parts.serving.manager.unload("m", TWO)
    shutil.move(models / "m" / "2.0.0", models.parent / "away")
    await _until(lambda: _states(server) == {ONE: S.READY})


async def test_a_server_that_starts_without_its_repository_serves_nothing_and_says_so(
    serve, models, state, start_server
) -> None:
    await serve()
    _take_away(models, "an empty directory")
    late = await start_server(state=state, wait=False, repository=RepositorySettings(poll_interval_s=0.05))
    assert late.services.catalog.snapshot.models == {}
    async with httpx.AsyncClient() as client:
        ready = await client.get(f"http://{late.http}/readyz")
    assert ready.status_code == 503
    assert "the model repository is empty, and 2 versions of m should be in it" in ready.text
    _bring_back(models, "an empty directory")
    await _until(lambda: late.services.catalog.snapshot.complete)
    await _answers(late)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_repository_that_may_not_be_read_unloads_nothing(serve, models) -> None:
    server = await serve()
    models.chmod(0)
    try:
        await _until(lambda: not server.parts.serving.manager.presence.available)
        await _answers(server)
    finally:
        models.chmod(0o755)
    await _until(lambda: server.parts.serving.manager.presence.available)
