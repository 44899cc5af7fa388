"""A directory that somebody mounted is served where it lies, is never written to, and takes nothing."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from semver import Version

import command_line
import onnx_models
import triton_models
from processes import serving, serving_in_thread, turnout
from started_servers import make_settings
from turnout.app.read_only import Mount
from turnout.app.server import Running, running
from turnout.config import ModelTable
from turnout.errors import ConfigError
from turnout.registry.mounted.repository import MountedRepository
from turnout.registry.onnx.model import ModelFacts, read_model
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.serving.sandbox.fork_server import ForkServer
from turnout.serving.sandbox.processes import JOB_FILE, Ended
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.database.engine import sqlite_url
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore
from turnout.telemetry.logging import make_logger
from turnout_client import Client
from wire import X, outputs_of, request, stub_of

V1, V2 = Version(1), Version(2)


def everything(root: Path) -> dict[str, tuple[int, int]]:
    """What a write would change."""
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode) for path in [root, *root.rglob("*")]}


@pytest.fixture
def tree(models: Path) -> Iterator[Path]:
    """A Triton model repository whose files and directories nobody may write to."""
    triton_models.three_models(models)
    paths = [models, *models.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = everything(models)
    yield models
    assert everything(models) == before
    for path in paths:
        path.chmod(0o755)


@pytest.fixture
async def serve_mount() -> AsyncIterator[Callable[[Path], Awaitable[Running]]]:
    """Serves a directory read-only, in this process."""
    async with AsyncExitStack() as stack:

        async def start(root: Path) -> Running:
            settings = make_settings(root, read_only=True)
            server = await stack.enter_async_context(running(settings, make_logger("json", "warning")))
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            return server

        yield start


def versions(server) -> dict[str, str]:
    models = server.services.catalog.snapshot.models.values()
    return {f"{e.model}@{e.version}": str(e.release_status) for model in models for e in model.versions.values()}


async def answer(server, model: str, selector: str = "") -> tuple[str, list[float]]:
    async with stub_of(server) as stub:
        got = await stub.Predict(request(model, selector, x=X))
    return got.route.version, outputs_of(got)["y"][0].tolist()


async def ready(server) -> tuple[int, list[str]]:
    async with httpx.AsyncClient() as client:
        got = await client.get(f"http://{server.http}/readyz")
    return got.status_code, got.text.splitlines()


async def test_a_triton_tree_is_served_as_triton_would(tree: Path, start_server) -> None:
    server = await start_server(read_only=True)
    assert versions(server) == dict.fromkeys(
        ("Scale.x2@2.0.0", "plain@10.0.0", "scores@1.0.0", "scores@3.0.0"), "released"
    )
    assert await answer(server, "Scale.x2") == ("2.0.0", [0.0, 2.0, 4.0, 6.0])
    assert await answer(server, "plain", "10") == ("10.0.0", [0.0, 10.0, 20.0, 30.0])
    assert (await answer(server, "scores"))[0] == "3.0.0"
    assert (await answer(server, "scores", "1"))[0] == "1.0.0"
    assert await ready(server) == (200, ["ready"])
    scores = server.services.catalog.snapshot.model("scores").versions[Version(3)]
    assert scores.manifest.labels == {"y": ("ant", "bee", "cat", "dog")}
    assert scores.max_batch_rows <= 8


async def test_a_model_that_ends_shape_inference_ends_no_server_and_is_served(models: Path, start_server) -> None:
    (models / "m" / "1").mkdir(parents=True)
    onnx_models.save(onnx_models.not_inferred(), models / "m" / "1" / "model.onnx")
    server = await start_server(read_only=True)
    async with stub_of(server) as stub:
        got = await stub.Predict(request("m", x=np.zeros((1, 4), np.float32)))
    assert outputs_of(got)["y"].tolist() == [[5.0] * 4]


async def test_a_model_that_ends_onnx_runtime_as_it_loads_fails_and_ends_no_server(
    models: Path, start_server, monkeypatch
) -> None:
    """Triton models are loaded in a child first. No model is known any more that ONNX Runtime crashes on there, so that
    the child dies of something else.
    """

    def end(self: ForkServer, scratch: Path, timeout: float, cancellation: object) -> Ended:
        job = json.loads((scratch / JOB_FILE).read_text())
        crashes = job["question"] == "load" and job["subjects"][0]["manifest"]["model"] == "m"
        return Ended(-signal.SIGSEGV, timed_out=False) if crashes else run(self, scratch, timeout, cancellation)

    run = ForkServer.run
    monkeypatch.setattr(ForkServer, "run", end)
    for name in ("m", "other"):
        (models / name / "1").mkdir(parents=True)
        onnx_models.save(onnx_models.scaled(3), models / name / "1" / "model.onnx")
    server = await start_server(read_only=True)
    failed = server.services.catalog.snapshot.models["m"].versions[V1]
    assert failed.state is LifecycleState.FAILED
    assert failed.reason == "its process died of SIGSEGV"
    async with stub_of(server) as stub:
        assert outputs_of(await stub.Predict(request("other", x=X)))["y"].tolist() == (3 * X).tolist()


async def test_configurations_of_triton_are_settings_beneath_those_of_the_server(tree: Path, start_server) -> None:
    models: dict[str, Any] = {"scores": {"limits": {"max_queue_requests": 7}}}
    server = await start_server(read_only=True, model=models)
    manager = server.parts.serving.manager
    settings = manager._settings.for_model("scores")
    assert settings.limits.max_queue_requests == 7
    assert (settings.batching.max_delay_ms, settings.runtime.runners) == (0.5, 2)
    assert manager._settings.for_model("plain").batching.max_delay_ms == 0


async def test_what_an_import_publishes_is_what_is_served_in_place(tree: Path, tmp_path: Path) -> None:
    turnout("import", "triton", tree, "--models", tmp_path / "imported")
    imported = {(p.manifest.model, p.manifest.version): p.digest for p in Repository(tmp_path / "imported").published()}
    mounted = MountedRepository(tree, read_model, lambda: tmp_path)
    for found in mounted.published():
        if found.manifest.model != "scores":  # whose warm-up became a golden case
            assert found.digest == imported[found.manifest.model, found.manifest.version]


async def test_nothing_is_published_to_it_signed_or_removed_there(tree: Path, tmp_path: Path) -> None:
    source = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    with serving_in_thread(tree, read_only=True) as server:
        for command in (
            ["publish", "m", "1.0.0", source, "--server", server.control],
            ["publish", "m", "1.0.0", source, "--models", tree, "--state", sqlite_url(tmp_path / "s.db")],
            ["prune", "--yes", "--models", tree, "--state", sqlite_url(tmp_path / "s.db")],
        ):
            refused = command_line.run(*command, env=os.environ | {"TURNOUT_READ_ONLY": "true"})
            assert refused.returncode == 1, refused.stdout
            assert "the repository is served read-only, so nothing can be published to it" in refused.stderr


async def test_traffic_and_tags_are_changed_as_ever_and_forgotten_with_the_server(tree: Path, start_server) -> None:
    with serving_in_thread(tree, read_only=True) as server, Client(server.grpc) as client:
        client.wait_ready(timeout=60)
        turnout("traffic", "set", "scores", "--baseline", "1.0.0", "--server", server.control)
        assert client.predict("scores", {"x": X}).version == "1.0.0"
    again = await start_server(read_only=True)
    assert (await answer(again, "scores"))[0] == "3.0.0"


async def test_with_a_state_of_its_own_it_is_remembered(tree: Path, tmp_path: Path, start_server) -> None:
    state = sqlite_url(tmp_path / "state" / "state.db")
    (tmp_path / "state").mkdir()
    with serving_in_thread(tree, read_only=True, state=state) as server, Client(server.grpc) as client:
        client.wait_ready(timeout=60)
        turnout("traffic", "set", "scores", "--baseline", "1.0.0", "--server", server.control)
    again = await start_server(read_only=True, state=state)
    assert (await answer(again, "scores"))[0] == "1.0.0"
    assert versions(again)["scores@3.0.0"] == "released"


def exported(tmp_path: Path) -> Path:
    """Two exports in one directory."""
    source = tmp_path / "source"
    for name, factor in (("one", 2), ("two", 3)):
        file = onnx_models.save(onnx_models.scaled(factor), tmp_path / f"{name}.onnx")
        publish(Repository(source), PublishRequest(name, V1, file))
        turnout("export", f"{name}@1.0.0", "--to", tmp_path / "mnt" / name, "--models", source)
    return tmp_path / "mnt"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("", {"one@1.0.0", "two@1.0.0"}),
        ("one", {"one@1.0.0"}),
        ("one/models", {"one@1.0.0"}),
        ("one/models/one", {"one@1.0.0"}),
        ("one/models/one/1.0.0", {"one@1.0.0"}),
    ],
)
async def test_exports_are_served_wherever_the_mount_begins(
    tmp_path: Path, serve_mount, part: str, expected: set[str]
) -> None:
    server = await serve_mount(exported(tmp_path) / part)
    assert versions(server) == dict.fromkeys(expected, "released")
    assert await answer(server, "one") == ("1.0.0", [0.0, 2.0, 4.0, 6.0])


async def test_a_version_whose_bytes_changed_is_not_served(tmp_path: Path, serve_mount) -> None:
    mount = exported(tmp_path)
    file = mount / "two" / "models" / "two" / "1.0.0" / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    server = await serve_mount(mount)
    states = {m.name: [e.state for e in m.versions.values()] for m in server.services.catalog.snapshot.models.values()}
    assert states == {"one": [LifecycleState.READY], "two": [LifecycleState.FAILED]}


async def test_a_model_that_cannot_lie_where_it_is_served_is_copied(models: Path, start_server, tmp_path: Path) -> None:
    triton_models.put(models, "named", 4, onnx_models.scaled(4), file="net.onnx")
    (models / "named" / "config.pbtxt").write_text('default_model_filename: "net.onnx"')
    onnx_models.save(onnx_models.scaled(5), tmp_path / "linked.onnx")
    (models / "linked" / "5").mkdir(parents=True)
    (models / "linked" / "5" / "model.onnx").symlink_to(tmp_path / "linked.onnx")
    (tmp_path / "data").mkdir()
    triton_models.put(tmp_path / "data", "whole", 6, onnx_models.scaled(6))
    (models / "whole").symlink_to(tmp_path / "data" / "whole")
    server = await start_server(read_only=True)
    assert await answer(server, "named", "4") == ("4.0.0", [0.0, 4.0, 8.0, 12.0])
    assert await answer(server, "linked", "5") == ("5.0.0", [0.0, 5.0, 10.0, 15.0])
    assert await answer(server, "whole", "6") == ("6.0.0", [0.0, 6.0, 12.0, 18.0])
    directory = server.parts.rollouts.release_writer._repository.directory("named", Version(4))
    assert not directory.is_relative_to(models)


def test_a_model_that_is_refused_leaves_no_copy_behind(models: Path, tmp_path: Path) -> None:
    """A mount is looked at again and again, and what is refused each time would fill the disk."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (models / "m" / "1").mkdir(parents=True)
    (tmp_path / "elsewhere.onnx").write_bytes(b"this is no model")
    (models / "m" / "1" / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")  # as Kubernetes mounts files
    repository = MountedRepository(models, read_model, lambda: scratch)
    for _ in range(2):
        assert [problem.model for problem in repository.scan().problems] == ["m"]
        assert list(scratch.iterdir()) == []
    onnx_models.save(onnx_models.scaled(2), tmp_path / "elsewhere.onnx")
    assert [one.manifest.model for one in repository.scan().published] == ["m"]
    assert len(list(scratch.iterdir())) == 1


async def test_a_version_that_comes_later_is_served_too(models: Path, start_server, tmp_path: Path) -> None:
    triton_models.put(models, "m", 1, onnx_models.scaled(1))
    server = await start_server(read_only=True)
    triton_models.put(tmp_path / "next", "m", 2, onnx_models.scaled(2))
    (tmp_path / "next" / "m" / "2").rename(models / "m" / "2")

    def come(snapshot) -> bool:
        entry = snapshot.model("m").versions.get(V2)
        return entry is not None and entry.state is LifecycleState.READY and str(entry.release_status) == "released"

    await server.services.catalog.wait_for(come)
    assert (await answer(server, "m"))[0] == "2.0.0"


async def test_a_file_system_that_hangs_is_waited_for_once(models: Path, tmp_path: Path, monkeypatch) -> None:
    triton_models.put(models, "m", 1, onnx_models.scaled(1))
    monkeypatch.setattr("turnout.app.read_only._SECONDS", 0.05)
    goes_on, blocked = threading.Event(), threading.Event()

    class Hanging(MountedRepository):
        def scan(self):
            blocked.set()
            assert goes_on.wait(60)
            return super().scan()

    repository = Hanging(models, read_model, lambda: tmp_path)
    log = make_logger("json", "warning")
    with StateStore.open(sqlite_url(tmp_path / "state.db")) as store:
        mount = Mount(repository, store, ModelTable({}), log, release_all=True)
        for _ in range(3):
            await asyncio.wait_for(mount.refresh(), 30)
        assert blocked.is_set()
        assert store.release_state().of("m").release_statuses == {}
        goes_on.set()
        while not store.release_state().of("m").release_statuses:
            await asyncio.wait_for(mount.refresh(), 30)
            await asyncio.sleep(0.01)
        assert store.release_state().of("m").release_statuses == {V1: ReleaseStatus.RELEASED}


async def test_two_who_look_at_once_both_see_the_end(models: Path, tmp_path: Path, monkeypatch) -> None:
    """Those who follow the state store and those who follow the directory do; the second one ended the server."""
    repository = MountedRepository(models, read_model, lambda: tmp_path)
    with StateStore.open(sqlite_url(tmp_path / "state.db")) as store:
        mount = Mount(repository, store, ModelTable({}), make_logger("json", "warning"), release_all=True)
        looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(repository, "in_thread", lambda _: looked)
        both = [asyncio.create_task(mount.refresh()) for _ in range(2)]
        await asyncio.sleep(0)  # each waits
        looked.set_result(None)
        await asyncio.gather(*both)


def test_nobody_waits_while_a_model_that_is_new_is_read(models: Path, tmp_path: Path) -> None:
    reading, goes_on = threading.Event(), threading.Event()

    def slowly(path: Path) -> ModelFacts:
        if path.parent.name == "2":
            reading.set()
            assert goes_on.wait(60)
        return read_model(path)

    (models / "m").mkdir(parents=True)
    (models / "m" / "config.pbtxt").write_text("version_policy { all {} }")
    triton_models.put(models, "m", 1, onnx_models.scaled(1))
    repository = MountedRepository(models, slowly, lambda: tmp_path)
    assert [p.manifest.version for p in repository.scan().published] == [V1]
    triton_models.put(models, "m", 2, onnx_models.scaled(2))
    with ThreadPoolExecutor(1) as pool:
        scan = pool.submit(repository.scan)
        try:
            assert reading.wait(60)
            assert [p.manifest.version for p in repository.scan().published] == [V1]
            assert repository.find("m", V1).manifest.version == V1
        finally:
            goes_on.set()
        assert [p.manifest.version for p in scan.result(60).published] == [V1, V2]
    assert [p.manifest.version for p in repository.scan().published] == [V1, V2]


async def test_one_model_of_a_tree_may_be_the_mount(tmp_path: Path, serve_mount) -> None:
    tree = triton_models.three_models(tmp_path / "tree")
    server = await serve_mount(tree / "scores")
    assert set(versions(server)) == {"scores@1.0.0", "scores@3.0.0"}


async def test_the_same_version_twice_with_other_content_is_served_from_neither(tmp_path: Path) -> None:
    mount = exported(tmp_path)
    for root, factor in (("a", 2), ("b", 3)):
        triton_models.put(mount / root, "m", 1, onnx_models.scaled(factor))
    shutil.copytree(mount / "a", mount / "c" / "a")
    listing = MountedRepository(mount, read_model, lambda: tmp_path).scan()
    assert listing.models == ("one", "two")
    assert [p.reason for p in listing.problems] == [
        "m 1.0.0 is there with different content, in a/m/1 and b/m/1 and c/a/m/1"
    ]


async def test_an_empty_mount_is_not_ready_and_says_so(models: Path, start_server) -> None:
    models.mkdir()
    server = await start_server(read_only=True)
    reason = "the mounted directory contains no version of a model, and no Triton model repository"
    assert await ready(server) == (503, ["not ready", reason])


async def test_what_cannot_be_served_is_named(models: Path, start_server) -> None:
    triton_models.put(models, "plan", 1, onnx_models.scaled(2))
    (models / "plan" / "config.pbtxt").write_text('platform: "tensorrt_plan"')
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.onnx").write_text("no model")
    onnx_models.save(onnx_models.scaled(2), models / "loose.onnx")
    server = await start_server(read_only=True)
    status, lines = await ready(server)
    assert (status, lines[0]) == (503, "not ready")
    assert any(line.startswith("plan is not served: platform: tensorrt_plan") for line in lines)
    assert any(line.startswith("broken 1 is not served: the file is not an ONNX model") for line in lines)
    assert "loose.onnx is not in a version directory and is not served; expected loose/1/model.onnx" in lines


async def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path, serve_mount) -> None:
    with pytest.raises(ConfigError) as refused:
        await serve_mount(tmp_path / "gone")
    assert refused.value.message == f"there is no directory {tmp_path / 'gone'}, which --read-only is to serve"
    assert not (tmp_path / "gone").exists()


@pytest.fixture
def read_only_mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that the kernel lets nobody write to."""
    mount = tmp_path / "mnt"
    mount.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("only root may mount a file system here")
    try:
        triton_models.three_models(mount)
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2])
def test_a_server_of_a_mount_that_is_read_only(read_only_mount: Path, workers: int, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Read-only file system"):
        (read_only_mount / "x").touch()
    options = ["--read-only", "--workers", str(workers)]
    with serving(read_only_mount, options=options) as server, Client(server.grpc) as client:
        client.wait_ready(timeout=120)
        assert client.predict("scores", {"x": X}).version == "3.0.0"
        assert client.predict("Scale.x2", {"x": X}, version="2").version == "2.0.0"
        turnout("traffic", "set", "scores", "--baseline", "1.0.0", "--server", server.control)
        assert client.predict("scores", {"x": X}).version == "1.0.0"
        refused = turnout(
            "publish", "m", "1.0.0", read_only_mount / "plain/9/model.onnx", "--server", server.control, check=False
        )
        assert "the repository is served read-only" in refused.stderr
        log = server.log
        server.send(2)  # SIGINT
        assert server.wait() == 0, log.read_text()
    assert "Traceback" not in log.read_text()


async def test_a_repository_of_turnouts_own_is_served_read_only_too(models: Path, publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2), release=False)
    publish_model("m", "2.0.0-rc.1", onnx_models.scaled(3), release=False)
    server = await start_server(read_only=True)
    assert versions(server) == {"m@1.0.0": "released", "m@2.0.0-rc.1": "candidate"}
    with pytest.raises(grpc.aio.AioRpcError):
        await answer(server, "m", "3")


def test_commands_look_at_it_and_ask_for_a_state_where_they_need_one(tree: Path, tmp_path: Path) -> None:
    environment = os.environ | {"TURNOUT_READ_ONLY": "true", "TURNOUT_MODELS": str(tree)}
    listed = command_line.run("models", "--json", env=environment)
    assert [model["name"] for model in json.loads(listed.stdout)["models"]] == ["Scale.x2", "plain", "scores"]
    refused = command_line.run("tag", "scores", "stable", "3.0.0", env=environment)
    assert (refused.returncode, refused.stderr) == (
        1,
        "error: the repository is read-only, and its server keeps all changes in memory: ask that server, or name a"
        " state store with --state\n",
    )
    state = sqlite_url(tmp_path / "state.db")
    assert command_line.run("tag", "scores", "stable", "3.0.0", "--state", state, env=environment).returncode == 0
    doctor = command_line.run("doctor", "--json", env=environment | {"TURNOUT_MODEL__SCALE.X2__LOAD": "all"})
    checks = {check["name"]: check["detail"] for check in json.loads(doctor.stdout)["checks"]}
    assert checks["state store"] == "in memory: the repository is read-only, and no state store is named"
    assert "3 models, 4 versions" in checks["repository"]
    assert "matches no model" not in doctor.stdout
