"""Sessions on CUDA: bound, bounded, and gone when they are unloaded."""

import asyncio

import numpy as np
import onnxruntime as ort
import pytest
from grpc import StatusCode
from semver import Version

from onnx_models import grows, matmul
from turnout.config import Runtime
from turnout.serving.sessions.memory import used_bytes
from turnout.serving.sessions.providers import CUDA
from wire import X, outputs_of, refusal, request, stub_of

pytestmark = pytest.mark.gpu

MIB = 1024 * 1024


def _entry(server, version: str = "1.0.0"):
    return server.services.catalog.snapshot.models["m"].versions[Version.parse(version)]


async def test_cuda_answers_as_the_cpu_does(publish_model, start_server) -> None:
    model = matmul(256)
    publish_model("m", "1.0.0", model)
    server = await start_server()
    assert _entry(server).providers[0] == CUDA
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    async with stub_of(server) as stub:
        for rows in (1, 5, 2, 40):
            x = random.standard_normal((rows, 256)).astype(np.float32)
            answer = await stub.Predict(request("m", x=x))
            np.testing.assert_allclose(outputs_of(answer)["y"], session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-4)


async def test_unloading_gives_the_devices_memory_back(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", matmul(64))
    publish_model("m", "2.0.0", matmul(4096))
    server = await start_server()
    manager = server.parts.serving.manager
    await manager.unload("m", Version(2))
    before = used_bytes("cuda:0")
    for _ in range(5):
        await manager.load("m", Version(2))
        assert used_bytes("cuda:0") - before >= 60 * MIB  # 64 MiB of weights
        await manager.unload("m", Version(2))
    assert used_bytes("cuda:0") - before <= 8 * MIB


async def test_two_versions_that_alternate_do_not_grow_memory(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", matmul(1024))
    publish_model("m", "2.0.0", matmul(1024, seed=1))
    server = await start_server()

    async def alternate(stub, rounds: int) -> int:
        for index in range(rounds):
            x = np.zeros((1 + index % 16, 1024), np.float32)
            for version in ("1.0.0", "2.0.0"):
                await stub.Predict(request("m", version, x=x))
        return used_bytes("cuda:0")

    async with stub_of(server) as stub:
        settled = await alternate(stub, 50)
        later = await alternate(stub, 500)
    assert later - settled <= 2 * MIB


async def test_a_version_whose_weights_alone_are_over_the_limit_is_failed(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", matmul(4096))
    server = await start_server(runtime=Runtime(arena_limit_bytes=16 * MIB))
    entry = _entry(server)
    assert entry.handle is None
    assert "memory limit" in entry.reason


async def test_a_run_that_asks_for_more_than_the_arena_may_take_is_refused_alone(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", grows())
    server = await start_server(runtime=Runtime(arena_limit_bytes=64 * MIB))
    async with stub_of(server) as stub:
        for _ in range(3):
            refused = await refusal(stub.Predict(request("m", x=X, n=np.int64(64 * MIB))))  # of four bytes each
            assert refused.code is StatusCode.RESOURCE_EXHAUSTED
            answer = await stub.Predict(request("m", x=X, n=np.int64(MIB)))
            np.testing.assert_array_equal(outputs_of(answer)["y"], X)


async def test_requests_that_wait_are_run_together_and_answered_apart(publish_model, start_server) -> None:
    model = matmul(1024)
    publish_model("m", "1.0.0", model)
    server = await start_server()
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(2)
    sent = [random.standard_normal((1 + index % 3, 1024)).astype(np.float32) for index in range(300)]
    async with stub_of(server) as stub:
        answers = await asyncio.gather(*(stub.Predict(request("m", x=x)) for x in sent))
    for x, answer in zip(sent, answers, strict=True):
        np.testing.assert_allclose(outputs_of(answer)["y"], session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-3)
    handle = _entry(server).handle
    assert handle is not None
    assert handle.loaded is not None
    assert handle.loaded.plan.max_rows > 1
    batches = handle.recorder.batches.histogram()
    assert batches.total == sum(len(x) for x in sent)
    assert sum(batches.counts) < len(sent)  # some of them were run together
