"""CUDA graphs on a device: captured, right at each size, and harmless to what else goes on in the process."""

import asyncio
import threading

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from semver import Version

from onnx_models import if_with_weights, matmul, model, tensor
from turnout.config import BatchingSettings, Runtime
from turnout.serving.sessions.memory import used_bytes
from turnout.serving.sessions.providers import CUDA
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec
from wire import outputs_of, request, stub_of

pytestmark = pytest.mark.gpu

MIB = 1024 * 1024
GRAPHS = Runtime(cuda_graphs="auto")
ALWAYS = BatchingSettings(max_rows=8, only_where_it_pays=False)


def _entry(server, version: str = "1.0.0", name: str = "m"):
    return server.services.catalog.snapshot.models[name].versions[Version.parse(version)]


def _layers(count: int, size: int = 64) -> onnx.ModelProto:
    """y = relu(x w) over and over: many small kernels, which is what a graph launches in one go."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for index in range(count):
        value = (random.standard_normal((size, size)) / size**0.5).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(value, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"h{index}"]))
        last = "y" if index == count - 1 else f"r{index}"
        nodes.append(helper.make_node("Relu", [f"h{index}"], [last]))
    made = model(nodes, [tensor("x", TensorProto.FLOAT, ["N", size])], [tensor("y", TensorProto.FLOAT, ["N", size])])
    made.graph.initializer.extend(weights)
    return made


async def test_every_size_of_batch_is_answered_by_graphs_as_the_cpu_answers(publish_model, start_server) -> None:
    proto = _layers(12)
    publish_model("m", "1.0.0", proto)
    server = await start_server(runtime=GRAPHS, batching=ALWAYS)
    entry = _entry(server)
    assert entry.providers[0] == CUDA
    assert entry.cuda_graphs == "captured for 1, 2, 4, 8 rows, proved against plain runs"
    (session,) = entry.handle.loaded.sessions
    assert session._session.get_provider_options()[CUDA]["enable_cuda_graph"] == "1"
    cpu = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    sent = [random.standard_normal((1 + i % 10, 64)).astype(np.float32) for i in range(200)]
    async with stub_of(server) as stub:
        for batch in (sent[:20], sent[20:]):
            answers = await asyncio.gather(*(stub.Predict(request("m", x=x)) for x in batch))
            for x, answer in zip(batch, answers, strict=True):
                np.testing.assert_allclose(outputs_of(answer)["y"], cpu.run(None, {"x": x})[0], rtol=1e-3, atol=1e-4)


async def test_versions_that_are_captured_loaded_and_unloaded_fail_no_request_of_another(
    publish_model, start_server
) -> None:
    """A capture makes `cudaMalloc` fail in the whole process; runs, loads and allocations keep away from it."""
    publish_model("m", "1.0.0", _layers(12))
    publish_model("m", "2.0.0", _layers(24))
    publish_model("plain", "1.0.0", matmul(512))
    server = await start_server(runtime=GRAPHS, batching=ALWAYS)
    manager, ended = server.parts.serving.manager, asyncio.Event()
    random = np.random.default_rng(2)

    async def ask(stub, name: str, version: str, width: int) -> int:
        answered = 0
        while not ended.is_set():
            x = random.standard_normal((1 + answered % 40, width)).astype(np.float32)  # arenas grow, and allocate
            answer = await stub.Predict(request(name, version, x=x))
            assert outputs_of(answer)["y"].shape == x.shape
            answered += 1
        return answered

    async with stub_of(server) as stub:
        asking = [asyncio.create_task(ask(stub, *who)) for who in (("m", "1.0.0", 64), ("plain", "1.0.0", 512))]
        try:
            for _ in range(5):
                await manager.unload("m", Version(2))
                await manager.load("m", Version(2))
                assert _entry(server, "2.0.0").cuda_graphs.startswith("captured")
        finally:
            ended.set()
        assert all(count > 0 for count in await asyncio.gather(*asking))


async def test_graphs_are_counted_to_their_version_and_go_with_it(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", _layers(4))
    publish_model("m", "2.0.0", _layers(4, size=1024))
    server = await start_server(runtime=GRAPHS, batching=ALWAYS)
    manager = server.parts.serving.manager
    await manager.unload("m", Version(2))
    before = used_bytes("cuda:0")
    for _ in range(5):
        await manager.load("m", Version(2))
        assert _entry(server, "2.0.0").handle.recorder.memory_bytes["cuda:0"] >= 16 * MIB  # its weights alone
        await manager.unload("m", Version(2))
    assert used_bytes("cuda:0") - before <= 8 * MIB


async def test_what_cannot_be_captured_is_served_plainly_and_says_why(publish_model, start_server) -> None:
    x, y = tensor("x", TensorProto.FLOAT, ["N", 2, 2]), tensor("y", TensorProto.FLOAT, ["N"])
    publish_model("det", "1.0.0", model([helper.make_node("Det", ["x"], ["y"])], [x], [y]))  # has no CUDA kernel
    publish_model("flow", "1.0.0", if_with_weights())
    server = await start_server(runtime=GRAPHS)
    for name in ("det", "flow"):
        entry = _entry(server, name=name)
        assert entry.state == "ready", entry.reason
        assert entry.cuda_graphs.startswith("off: "), entry.cuda_graphs
        assert not entry.handle.loaded.sessions[0].captures


def test_onnx_runtime_launches_what_it_captured_in_the_thread_that_captured_only(tmp_path) -> None:
    """What `PreparedRunner` is for. Should this fail, graphs are no longer kept by thread, which would be simpler."""
    path = tmp_path / "m.onnx"
    onnx.save(_layers(2), path)
    from turnout.registry.onnx.model import read_model

    session = Session(
        SessionSpec(path, read_model(path).signature, [CUDA, "CPUExecutionProvider"], 0, GRAPHS), captures=True
    )
    x = np.ones((1, 64), np.float32)
    values = session.value_like(x), session.value_like(x)
    binding = session.bind()
    binding.bind_ortvalue_input("x", values[0])
    binding.bind_ortvalue_output("y", values[1])
    values[0].update_inplace(x)
    launch = session.capture(binding, 1_000_001)
    launch()
    answers: list[np.ndarray] = []

    def elsewhere() -> None:
        launch()  # captures once more, for this thread
        answers.append(values[1].numpy())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(60)
    np.testing.assert_allclose(answers[0], session.run({"x": x}, ["y"])[0], rtol=1e-4)


async def test_a_runner_that_looks_for_requests_answers_as_one_that_sleeps(publish_model, start_server) -> None:
    proto = matmul(256)
    publish_model("m", "1.0.0", proto)
    server = await start_server(runtime=Runtime(gpu_spin_us=100))
    cpu = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(4)
    async with stub_of(server) as stub:
        for _ in range(200):
            x = random.standard_normal((1, 256)).astype(np.float32)
            answer = await stub.Predict(request("m", x=x))
            np.testing.assert_allclose(outputs_of(answer)["y"], cpu.run(None, {"x": x})[0], rtol=1e-4, atol=1e-4)
