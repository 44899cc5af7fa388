"""One byte that changed, in whichever file of a version: it is named, never served, and nobody else's trouble."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest
from semver import Version

import onnx_models
from answer_wire import run
from onnx_models import save_external, scaled
from turnout.config import Settings
from turnout.errors import DigestMismatch
from turnout.registry.storage.manifests import load_unchanged
from turnout.registry.storage.repository import Repository
from turnout.releases.adoption import adopt
from turnout.serving.loading.version_sessions import VersionSessions
from turnout.state.store import StateStore
from wire import X, outputs_of, refusal, request, stub_of

FILES = ["manifest.json", "model.onnx", "weights.data", "golden/one.npz"]
DAMAGED = Version(2)


@pytest.fixture
def digest(publish_model, models: Path, tmp_path: Path) -> str:
    """Publishes m 1.0.0, and m 2.0.0 of four kinds of files; returns the digest of the latter."""
    source = save_external(tmp_path)
    golden = tmp_path / "one.npz"
    x = np.ones((1, 64), np.float32)
    np.savez(golden, **{"inputs/x": x, "outputs/y": x})
    publish_model("m", "1.0.0", scaled(1))
    digest = publish_model("m", "2.0.0", source, golden=(golden,))
    with StateStore.open(Settings(models=models).state_url) as store:
        adopt(Repository(models), store, actor="test")
    return digest


def flip(path: Path, *, at: int | None = None) -> None:
    """Changes one bit of a file."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(bytes(data))


def damage(models: Path, file: str) -> None:
    flip(models / "m" / "2.0.0" / file)


@pytest.mark.parametrize("file", FILES)
def test_verification_names_the_file(digest, models: Path, file: str) -> None:
    damage(models, file)
    with pytest.raises(DigestMismatch, match=file):
        Repository(models).verify("m", DAMAGED, expected=digest)


@pytest.mark.parametrize("file", FILES)
async def test_a_server_that_starts_answers_data_loss_and_serves_the_rest(
    digest, models: Path, start_server, file: str
) -> None:
    damage(models, file)
    server = await start_server()
    async with stub_of(server) as stub:
        for selector in ("2.0.0", digest):
            refused = await refusal(stub.Predict(request("m", selector, x=X)))
            assert refused.code is grpc.StatusCode.DATA_LOSS
            assert file in refused.message
        assert (await stub.Predict(request("m", "^1", x=X))).route.version == "1.0.0"
    table = await run(server, models, "models")
    assert "note: m 2.0.0: " in table.err
    assert file in table.err


@pytest.mark.parametrize("file", FILES)
async def test_a_server_that_loads_it_again_answers_data_loss_and_serves_the_rest(
    digest, models: Path, start_server, file: str
) -> None:
    server = await start_server()
    manager = server.parts.serving.manager
    await manager.unload("m", DAMAGED)
    damage(models, file)
    with pytest.raises(Exception, match=file):
        await manager.load("m", DAMAGED)
    async with stub_of(server) as stub:
        refused = await refusal(stub.Predict(request("m", "2.0.0", x=X)))
        assert refused.code is grpc.StatusCode.DATA_LOSS
        assert file in refused.message
        assert (await stub.Predict(request("m", "1.0.0", x=X))).route.version == "1.0.0"


async def test_a_manifest_that_another_valid_one_took_the_place_of_is_seen_by_the_log(
    digest, models: Path, start_server
) -> None:
    manifest = models / "m" / "2.0.0" / "manifest.json"
    text = manifest.read_text()
    manifest.chmod(0o644)
    manifest.write_text(text.replace('"ir_version":8', '"ir_version":7'))
    assert manifest.read_text() != text
    Repository(models).verify("m", DAMAGED)  # by itself it is whole
    server = await start_server()
    async with stub_of(server) as stub:
        refused = await refusal(stub.Predict(request("m", "2.0.0", x=X)))
    assert refused.code is grpc.StatusCode.DATA_LOSS
    assert refused.message.startswith("m 2.0.0: manifest.json is not what was published")


async def test_a_version_in_memory_goes_on_when_its_manifest_is_damaged(digest, models: Path, start_server) -> None:
    server = await start_server()
    damage(models, "manifest.json")
    await server.parts.serving.manager.refresh()
    x = np.ones((1, 64), np.float32)
    async with stub_of(server) as stub:
        assert (await stub.Predict(request("m", "2.0.0", x=x))).route.version == "2.0.0"


async def test_a_model_of_which_nothing_else_is_left_answers_data_loss_too(
    publish_model, models: Path, start_server
) -> None:
    publish_model("m", "2.0.0", scaled(2))
    damage(models, "manifest.json")
    server = await start_server()
    async with stub_of(server) as stub:
        refused = await refusal(stub.Predict(request("m", "2.0.0", x=X)))
        other = await refusal(stub.Predict(request("m", "3.0.0", x=X)))
    assert (refused.code, other.code) == (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.NOT_FOUND)


async def test_a_version_that_was_published_anew_is_served_once_the_log_says_so(
    digest, models: Path, start_server, publish_model, tmp_path: Path
) -> None:
    server = await start_server()
    (models / "m" / "2.0.0").rename(tmp_path / "away")
    catalog = server.services.catalog
    async with asyncio.timeout(120):
        await server.parts.serving.manager.unload("m", DAMAGED)  # what is in memory outlives its files
        await catalog.wait_for(lambda snapshot: DAMAGED not in snapshot.models["m"].versions)
        publish_model("m", "2.0.0", scaled(2), release=False)
        await catalog.wait_for(
            lambda s: DAMAGED in s.models["m"].versions and s.models["m"].versions[DAMAGED].failure is not None
        )
        digest = Repository(models).find("m", DAMAGED).digest
        with StateStore.open(Settings(models=models).state_url) as store:
            store.record_published("m", DAMAGED, digest, actor="ada", reason="anew", found=False)
        await catalog.wait_for(lambda s: s.models["m"].versions[DAMAGED].handle is not None)


@pytest.mark.parametrize("back", [True, False])
async def test_a_file_that_is_replaced_between_its_verification_and_its_load_is_not_served(
    publish_model, models: Path, tmp_path: Path, start_server, monkeypatch, back: bool
) -> None:
    """Whoever may write to the repository may put the published file back, too, before anybody looks again."""
    publish_model("m", "1.0.0", scaled(2))
    model, kept = models / "m" / "1.0.0" / "model.onnx", tmp_path / "kept.onnx"
    create, sessions = VersionSessions.on_each_device, []

    def replaced(version: VersionSessions, **given: bool) -> object:
        if not sessions:
            model.rename(kept)
            onnx_models.save(scaled(9), model)
        sessions.append(create(version, **given))
        if len(sessions) == 1 and back:
            kept.replace(model)
        return sessions[-1]

    monkeypatch.setattr(VersionSessions, "on_each_device", replaced)
    server = await start_server()
    async with stub_of(server) as stub:
        if back:
            np.testing.assert_array_equal(outputs_of(await stub.Predict(request("m", x=X)))["y"], X * 2)
            assert len(sessions) == 2
        else:
            assert (await refusal(stub.Predict(request("m", x=X)))).code is grpc.StatusCode.DATA_LOSS


def test_files_that_never_stay_are_not_loaded(digest, models: Path) -> None:
    found, discarded = Repository(models).find("m", DAMAGED), []
    directory = models / "m" / "2.0.0"
    loads = iter(range(100))

    def load() -> int:
        (directory / "weights.data").touch()
        return next(loads)

    with pytest.raises(DigestMismatch, match="change while they are loaded"):
        load_unchanged(directory, found.manifest.files, load, discarded.append)
    assert discarded == [0, 1, 2]
    assert load_unchanged(directory, found.manifest.files, lambda: "loaded", discarded.append) == "loaded"
