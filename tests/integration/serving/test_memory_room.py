"""Room in memory for versions that come and go: who waits for whom, on which GPU, and when it is tried again."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest
from semver import Version

from onnx_models import matmul
from turnout.config import Loading
from turnout.errors import NoRoom, NotLoaded
from turnout.registry.manifest.manifest import FileEntry, Manifest
from turnout.registry.manifest.signature import Signature
from turnout.serving.loading.loaded_version import LoadedVersion
from turnout.serving.loading.loader import Loader
from turnout.serving.loading.memory_budget import Occupant
from turnout.serving.loading.memory_room import MemoryRoom
from turnout.serving.versions import manager as manager_module
from turnout.serving.versions.lifecycle import LifecycleState
from wire import refusal, request, stub_of

SIZE = 256 * 1024
"""Bytes of the weights of `matmul(256)`, and a little less than its file has."""


@pytest.fixture(autouse=True)
def weighed_by_files(monkeypatch) -> None:
    """Has each version take what its files do: what the process takes besides depends on what ran in it before."""
    monkeypatch.setattr("turnout.serving.loading.memory_growth.used_bytes", lambda device: 0)


async def _answering(server, selector: str, width: int = 256) -> str:
    async with stub_of(server) as stub:
        x = np.ones((1, width), np.float32)
        return (await stub.Predict(request("m", selector, x=x), timeout=60)).route.version


def _in_memory(server) -> set[str]:
    entries = server.services.catalog.snapshot.models["m"].versions
    return {str(version) for version, entry in entries.items() if entry.state == LifecycleState.READY}


async def _until(server, version: str, *states: LifecycleState) -> None:
    async with asyncio.timeout(120):
        await server.services.catalog.wait_for(lambda s: s.models["m"].versions[Version.parse(version)].state in states)


@contextmanager
def _used(server, version: str) -> Iterator[None]:
    """Keeps a version in use."""
    handle = server.services.catalog.snapshot.models["m"].versions[Version.parse(version)].handle
    assert handle is not None
    with handle.lease():
        yield


async def test_a_version_that_waits_for_others_holds_up_none_that_finds_room(publish_model, start_server) -> None:
    publish_model("m", "0.9.0", matmul(362))  # twice as large as the others
    for version in ("1.1.0", "1.2.0", "1.3.0", "1.9.0", "2.0.0"):
        publish_model("m", version, matmul(256))
    server = await start_server(loading=Loading(load="on_demand", memory_budget_bytes=int(3.5 * SIZE)))
    for version in ("1.1.0", "1.2.0"):
        assert await _answering(server, version) == version
    with _used(server, "1.1.0"):
        large = asyncio.create_task(_answering(server, "0.9.0", 362))
        await _until(server, "0.9.0", LifecycleState.LOADING)
        assert await _answering(server, "1.3.0") == "1.3.0"  # in place of 1.2.0
        assert _in_memory(server) == {"1.1.0", "1.3.0", "2.0.0"}
        assert not large.done()
    assert await large == "0.9.0"
    assert _in_memory(server) == {"0.9.0", "2.0.0"}


async def test_versions_that_need_room_at_once_unload_no_more_than_that(publish_model, start_server) -> None:
    cold = [f"1.{minor}.0" for minor in range(6)]
    for version in (*cold, "1.9.0", "2.0.0"):
        publish_model("m", version, matmul(256))
    loading = Loading(load="on_demand", memory_budget_bytes=int(5.5 * SIZE), concurrency=4)
    server = await start_server(loading=loading)
    for version in cold[:4]:
        assert await _answering(server, version) == version
    assert await asyncio.gather(*(_answering(server, version) for version in cold[4:])) == cold[4:]
    assert _in_memory(server) == {*cold[2:], "2.0.0"}


async def test_a_gpu_that_can_make_room_is_chosen_before_one_that_cannot(
    publish_model, start_server, monkeypatch
) -> None:
    """Which GPUs there are is told; what is loaded for them is loaded on the CPU here, and its settings looked at."""
    sizes = {"1.0.0": 512, "2.0.0": 362, "3.0.0": 443}
    for version, size in sizes.items():
        publish_model("m", version, matmul(size))
    placed: dict[str, tuple[int, ...]] = {}

    def devices_of(runtime) -> list[str]:
        return [f"cuda:{number}" for number in runtime.device_ids]

    def load(loader, published, settings, *rest) -> LoadedVersion:
        placed[str(published.manifest.version)] = settings.runtime.device_ids
        loaded = load_on_cpu(loader, published, settings, *rest)
        return replace(loaded, memory_bytes=dict.fromkeys(devices_of(settings.runtime), published.manifest.size))

    load_on_cpu = Loader.load
    monkeypatch.setattr(manager_module, "devices_of", devices_of)
    monkeypatch.setattr(Loader, "load", load)
    loading = Loading(load="on_demand", gpu_memory_budget_bytes=4 * SIZE + SIZE // 2)
    server = await start_server(runtime={"device_ids": [0, 1], "gpus_per_version": 1}, loading=loading)
    assert await _answering(server, "", 443) == "3.0.0"
    assert await _answering(server, "1.0.0", 512) == "1.0.0"
    assert await _answering(server, "2.0.0", 362) == "2.0.0"  # beside 3.0.0, which has to stay, is no room for it
    assert placed == {"3.0.0": (0,), "1.0.0": (1,), "2.0.0": (1,)}
    assert _in_memory(server) == {"2.0.0", "3.0.0"}


async def test_what_a_load_took_on_one_gpu_is_reserved_on_another() -> None:
    room = MemoryRoom(
        Loading(gpu_memory_budget_bytes=100), lambda key, memory: Occupant(key, memory, in_use=True), print
    )
    both = ["cuda:0", "cuda:1"]
    one, other, third = (("m", Version(major)) for major in (1, 2, 3))
    assert await room.take(one, 10, both, 1) == ["cuda:0"]
    files = (FileEntry("model.onnx", 10, f"sha256:{'0' * 64}"),)
    room.measured(Manifest("m", Version(1), files, Signature((), ()), opset={}, ir_version=8), {"cuda:0": 60})
    room.leave(one)
    assert await room.take(other, 50, both, 1) == ["cuda:0"]
    assert await room.take(one, 10, both, 1) == ["cuda:1"]
    with pytest.raises(NoRoom, match="60 are taken"):
        await room.take(third, 70, ["cuda:1"], 1)


async def test_a_version_that_did_not_fit_may_be_asked_for_again_when_the_refusal_said(
    publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", matmul(512))
    publish_model("m", "2.0.0", matmul(256))
    server = await start_server(loading=Loading(load="on_demand", memory_budget_bytes=2 * SIZE))
    inventory = server.parts.serving.manager._inventory
    listing = await server.parts.serving.manager._scanner.listing()
    state = LifecycleState
    for _ in range(8):
        async with stub_of(server) as stub:
            wide = np.ones((1, 512), np.float32)
            refused = await refusal(stub.Predict(request("m", "1.0.0", x=wide), timeout=60))
        assert (refused.code, refused.retry_after) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 30.0)
        failed_at = inventory._failed_at["m", Version(1)]
        inventory.reconcile(listing, inventory.recorded(), failed_at + 29)
        assert inventory.entry("m", Version(1)).state is state.FAILED
        inventory.reconcile(listing, inventory.recorded(), failed_at + 30)
        assert inventory.entry("m", Version(1)).state is state.NEW
        server.parts.serving.manager.reconcile()


async def test_a_version_that_is_needed_is_loaded_once_those_in_its_way_are_no_longer_used(
    publish_model, start_server, monkeypatch
) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.9.0", "2.0.0"):
        publish_model("m", version, matmul(256))
    server = await start_server(loading=Loading(load="on_demand", memory_budget_bytes=int(2.5 * SIZE)))
    manager, state = server.parts.serving.manager, LifecycleState
    assert await _answering(server, "1.0.0") == "1.0.0"
    monkeypatch.setattr("turnout.serving.loading.memory_room.WAIT_SECONDS", 0.0)

    async def look_again(version: str) -> None:
        failed_at = manager._inventory._failed_at["m", Version.parse(version)]
        inventory = manager._inventory
        inventory.reconcile(await manager._scanner.listing(), inventory.recorded(), failed_at + 30)
        manager.reconcile()

    with _used(server, "1.0.0"), pytest.raises(NotLoaded, match="are in use"):
        await manager.load("m", Version(1, 1))
    monkeypatch.setattr("turnout.serving.loading.memory_room.WAIT_SECONDS", 30.0)
    await look_again("1.1.0")
    await _until(server, "1.1.0", state.READY, state.FAILED)
    assert _in_memory(server) == {"1.1.0", "2.0.0"}
    with pytest.raises(NotLoaded, match="have to stay"):
        await manager.load("m", Version(1, 2))
    await look_again("1.2.0")
    assert manager._inventory.entry("m", Version(1, 2)).state is state.FAILED


async def test_the_processes_of_an_isolated_version_count_as_its_metric_says(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", matmul(256))
    runtime = {"isolation": "process", "processes": 2}
    server = await start_server(runtime=runtime, loading=Loading(memory_budget_bytes=1 << 40))
    manager = server.parts.serving.manager
    taken = manager._room._taken["m", Version(1)]
    handle = server.services.catalog.snapshot.models["m"].versions[Version(1)].handle
    assert taken == handle.recorder.memory_bytes
    assert taken["cpu"] > 20 * SIZE  # an interpreter with ONNX Runtime
    async with asyncio.timeout(120):
        while len(handle.loaded.pool.pids) < 2:
            await asyncio.gather(*(_answering(server, "") for _ in range(8)))
    manager.sample()
    assert manager._room._taken["m", Version(1)]["cpu"] > 1.5 * taken["cpu"]
