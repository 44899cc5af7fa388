"""A version whose inline runs take too long leaves the event loop for a while: longer each time, and never for good."""

import asyncio
import time

import pytest
from semver import Version

from turnout.config import Settings
from turnout.registry.manifest.manifest import FileEntry, Manifest
from turnout.registry.manifest.signature import Signature
from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.warmup import WarmUp
from turnout.serving.loading.loaded_version import LoadedVersion
from turnout.serving.versions import handle as module
from turnout.serving.versions.handle import VersionHandle
from turnout.telemetry.metrics.versions import Metrics


class Model:
    """Runs for as long as it is told.

    Attributes:
        seconds: Of CPU that a run takes.
        waits: Seconds that it waits for the machine besides.
    """

    def __init__(self) -> None:
        self.seconds = self.waits = 0.0

    def __call__(self, _inputs, _outputs):
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        time.sleep(self.waits)
        return []


@pytest.fixture
async def model_and_handle(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(module, "_PAUSE_GROWTH", 3.0)
    model = Model()
    weights = FileEntry("model.onnx", 1, "sha256:" + "0" * 64)
    manifest = Manifest("m", Version(1), (weights,), Signature((), ()), {"": 18}, 9)
    loaded = LoadedVersion((), (), model, PlanInForce(BatchPlan(0)), WarmUp(), 1 << 20, {}, 0.0)
    handle = VersionHandle(manifest, loaded, Settings().for_model("m"), Metrics().version("m", "1.0.0", ""))
    yield model, handle
    if handle.loaded is not None:
        await handle.close()


def is_inline(handle: VersionHandle) -> bool:
    return handle.infer_now({}, ()) is not None


async def until_inline(handle: VersionHandle) -> None:
    async with asyncio.timeout(60):
        while not is_inline(handle):
            await asyncio.sleep(0.005)


async def test_a_stall_ends_it_for_a_while_and_the_next_one_for_longer(model_and_handle) -> None:
    model, handle = model_and_handle
    for least in (0.05, 0.15, 0.45):
        model.seconds, began = 0.11, time.monotonic()
        assert is_inline(handle)
        model.seconds = 0.0
        assert not is_inline(handle)
        await until_inline(handle)
        assert time.monotonic() - began > 0.11 + least - 0.02


async def test_so_do_several_slow_runs_and_one_alone_does_not(model_and_handle) -> None:
    model, handle = model_and_handle
    model.seconds = 0.01  # 20 times the threshold of 300 us, and more
    for _ in range(5):
        assert is_inline(handle)
    assert not is_inline(handle)
    model.seconds = 0.0
    await until_inline(handle)
    model.seconds = 0.01
    assert is_inline(handle)
    model.seconds = 0.0
    assert is_inline(handle), "strikes are counted anew"


async def test_what_a_run_waits_for_the_machine_is_not_held_against_a_version(model_and_handle) -> None:
    model, handle = model_and_handle
    model.waits = 0.11
    for _ in range(8):
        assert is_inline(handle)


async def test_a_version_that_is_closed_meanwhile_runs_nothing_again(model_and_handle) -> None:
    model, handle = model_and_handle
    model.seconds = 0.11
    assert is_inline(handle)
    await handle.close()
    await asyncio.sleep(0.1)  # longer than the pause
    assert not is_inline(handle)


def test_pauses_grow_to_hours(monkeypatch) -> None:
    pauses, pause = [], module._PAUSE_SECONDS
    while pause < module._LONGEST_PAUSE:
        pauses.append(pause)
        pause *= module._PAUSE_GROWTH
    assert sum(pauses[:4]) < 3600 < sum(pauses[:5])
    assert module._LONGEST_PAUSE * 4 == 86_400
