"""TensorRT on a device: engines that are built for stated shapes, kept, and used again, and FP16 by golden cases.

Skipped where TensorRT cannot be used, with what is missing. None of this has run on a device yet.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from grpc import StatusCode
from semver import Version

from onnx_models import matmul, model, tensor
from turnout.config import Runtime
from turnout.errors import InputsRefused
from turnout.registry.manifest.manifest import Tolerance
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.serving.sessions import providers
from turnout.serving.sessions.memory import used_bytes
from turnout.serving.sessions.providers import CPU, TENSORRT
from wire import outputs_of, refusal, request, stub_of

pytestmark = pytest.mark.gpu

ONE = Version(1)
MIB = 1 << 20
X = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)


@pytest.fixture(autouse=True)
def _there() -> None:
    report = next(report for report in providers.probe() if report.name == TENSORRT)
    if not report.usable:
        pytest.skip(f"no TensorRT: {report.detail}")


def _runtime(cache: Path, **more: Any) -> Runtime:
    return Runtime(providers=("tensorrt", "cuda", "cpu"), tensorrt_cache=str(cache), **more)


def _entry(server, model: str = "m"):
    return server.services.catalog.snapshot.models[model].versions[ONE]


async def _answer(server, model: str = "m") -> np.ndarray:
    async with stub_of(server) as stub:
        return outputs_of(await stub.Predict(request(model, x=X)))["y"]


def _on_the_cpu(proto: onnx.ModelProto) -> np.ndarray:
    return ort.InferenceSession(proto.SerializeToString(), providers=[CPU]).run(None, {"x": X})[0]


@pytest.mark.parametrize("batch", ["batch", 4], ids=["free", "fixed"])
async def test_engines_are_built_once_and_answer_as_the_cpu_does(publish_model, start_server, tmp_path, batch) -> None:
    proto = matmul(256, batch=batch)
    publish_model("m", "1.0.0", proto)
    server = await start_server(runtime=_runtime(tmp_path / "cache"))
    entry = _entry(server)
    assert entry.providers[0] == TENSORRT, entry.tensorrt
    assert entry.tensorrt == "used, full precision"
    # TensorRT multiplies with TF32 unless NVIDIA_TF32_OVERRIDE=0 is set; ONNX Runtime has no option for it.
    np.testing.assert_allclose(await _answer(server), _on_the_cpu(proto), rtol=1e-2, atol=5e-2)
    engines = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.engine")}
    assert engines
    assert list((tmp_path / "cache").rglob("*.timing"))
    await server.parts.serving.manager.unload("m", ONE)
    await server.parts.serving.manager.load("m", ONE)
    assert _entry(server).tensorrt == "used, full precision"
    assert {path: path.stat().st_mtime_ns for path in engines} == engines  # not built again


async def test_fp16_is_used_where_golden_cases_allow_it(publish_model, start_server, tmp_path) -> None:
    case = tmp_path / "one.npz"
    np.savez(case, **{"inputs/x": X, "outputs/y": _on_the_cpu(matmul(256))})
    wide = VersionMetadata(tolerances={"y": Tolerance(0.5, 0.0)})
    exact = VersionMetadata(tolerances={"y": Tolerance(1e-9, 0.0)})
    publish_model("wide", "1.0.0", matmul(256), golden=(case,), metadata=wide)
    publish_model("exact", "1.0.0", matmul(256), golden=(case,), metadata=exact)
    server = await start_server(runtime=_runtime(tmp_path / "cache", tensorrt_fp16="golden"))
    assert _entry(server, "wide").tensorrt.startswith("used, FP16: 1 golden case"), _entry(server, "wide").tensorrt
    assert _entry(server, "exact").tensorrt.startswith("used, full precision: FP16 was tried, and ")
    options = _entry(server, "wide").handle.loaded.sessions[0]._session.get_provider_options()[TENSORRT]
    assert options["trt_fp16_enable"] in ("1", "True")


async def test_what_was_tried_and_is_not_used_is_given_back(publish_model, start_server, tmp_path) -> None:
    case = tmp_path / "one.npz"
    np.savez(case, **{"inputs/x": np.ones((1, 4096), np.float32)})
    publish_model("m", "1.0.0", matmul(4096), golden=(case,))
    server = await start_server(runtime=_runtime(tmp_path / "cache", tensorrt_fp16="golden"))
    manager = server.parts.serving.manager
    await manager.unload("m", ONE)
    before = used_bytes("cuda:0")
    for _ in range(3):
        await manager.load("m", ONE)
        await manager.unload("m", ONE)
    assert used_bytes("cuda:0") - before <= 64 * MIB


async def test_a_damaged_engine_is_built_once_more(publish_model, start_server, tmp_path) -> None:
    publish_model("m", "1.0.0", matmul(256, batch=4))
    server = await start_server(runtime=_runtime(tmp_path / "cache"))
    for path in (tmp_path / "cache").rglob("*.engine"):
        path.write_bytes(b"damaged")
    await server.parts.serving.manager.unload("m", ONE)
    await server.parts.serving.manager.load("m", ONE)
    assert _entry(server).tensorrt == "used, full precision"
    assert max(path.stat().st_size for path in (tmp_path / "cache").rglob("*.engine")) > len(b"damaged")


def _engines(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.engine")}


def _steps() -> onnx.ModelProto:
    """y = x + x, of shape (batch, time)."""
    inputs, outputs = ([tensor(name, onnx.TensorProto.FLOAT, ["batch", "time"])] for name in "xy")
    return model([onnx.helper.make_node("Add", ["x", "x"], ["y"])], inputs, outputs)


async def test_no_engine_is_built_within_a_request(publish_model, start_server, tmp_path) -> None:
    publish_model("m", "1.0.0", _steps())
    sizes = {"batch": {"opt": 8, "max": 16}, "time": {"min": 2, "opt": 64, "max": 128}}
    server = await start_server(runtime=_runtime(tmp_path / "cache", tensorrt_sizes=sizes))
    assert _entry(server).tensorrt == "used, full precision"
    (session,) = _entry(server).handle.loaded.sessions
    options = session._session.get_provider_options()[TENSORRT]
    assert [options[f"trt_profile_{side}_shapes"] for side in ("min", "opt", "max")] == ["x:1x2", "x:8x64", "x:16x128"]
    engines = _engines(tmp_path / "cache")
    assert len(engines) == 1
    async with stub_of(server) as stub:
        for shape in ((1, 2), (16, 128), (3, 77), (1, 128), (16, 2)):
            x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            np.testing.assert_array_equal(outputs_of(await stub.Predict(request("m", x=x)))["y"], 2 * x)
        for shape in ((17, 2), (1, 1), (1, 129)):
            refused = await refusal(stub.Predict(request("m", x=np.ones(shape, np.float32))))
            assert refused.code is StatusCode.INVALID_ARGUMENT, shape
    assert _engines(tmp_path / "cache") == engines
    with pytest.raises(InputsRefused, match="expected a shape for which TensorRT has built engines"):
        session.run({"x": np.ones((17, 2), np.float32)}, ["y"])  # as a shadow might
    assert _engines(tmp_path / "cache") == engines
    (y,) = session.run({"x": np.ones((1, 2), np.float32)}, ["y"])  # it still runs
    np.testing.assert_array_equal(y, [[2.0, 2.0]])


async def test_other_sizes_have_other_engines_and_the_former_are_found_again(
    publish_model, start_server, tmp_path
) -> None:
    publish_model("m", "1.0.0", matmul(256))
    cache = tmp_path / "cache"
    await start_server(runtime=_runtime(cache))
    first = _engines(cache)
    await start_server(runtime=_runtime(cache, tensorrt_sizes={"batch": {"max": 64}}))
    both = _engines(cache)
    assert len(both) == 2 * len(first)
    await start_server(runtime=_runtime(cache))
    assert _engines(cache) == both


async def test_shapes_that_values_determine_have_the_next_provider_serve(publish_model, start_server, tmp_path) -> None:
    """ONNX Runtime would build engines for each value within a request."""
    proto = model(
        [onnx.helper.make_node("Reshape", ["x", "shape"], ["r"]), onnx.helper.make_node("Add", ["r", "r"], ["y"])],
        [tensor("x", onnx.TensorProto.FLOAT, [2, 4]), tensor("shape", onnx.TensorProto.INT64, [2])],
        [tensor("y", onnx.TensorProto.FLOAT, ["rows", "columns"])],
    )
    case = tmp_path / "one.npz"
    np.savez(case, **{"inputs/x": np.ones((2, 4), np.float32), "inputs/shape": np.array([4, 2])})
    publish_model("m", "1.0.0", proto, golden=(case,))
    server = await start_server(runtime=_runtime(tmp_path / "cache"))
    assert _entry(server).tensorrt.startswith("not used: "), _entry(server).tensorrt
    async with stub_of(server) as stub:
        for shape in ([4, 2], [8, 1], [1, 8]):
            answer = await stub.Predict(request("m", x=np.ones((2, 4), np.float32), shape=np.array(shape)))
            assert outputs_of(answer)["y"].shape == tuple(shape)
    assert not _engines(tmp_path / "cache")


async def test_a_version_in_child_processes_is_built_once_and_runs_in_fp16(
    publish_model, start_server, tmp_path
) -> None:
    case = tmp_path / "one.npz"
    np.savez(case, **{"inputs/x": X, "outputs/y": _on_the_cpu(matmul(256))})
    wide = VersionMetadata(tolerances={"y": Tolerance(0.5, 0.0)})
    publish_model("m", "1.0.0", matmul(256), golden=(case,), metadata=wide)
    runtime = _runtime(tmp_path / "cache", tensorrt_fp16="golden", isolation="process")
    server = await start_server(runtime=runtime)
    assert _entry(server).tensorrt.startswith("used, FP16: 1 golden case"), _entry(server).tensorrt
    engines = _engines(tmp_path / "cache")
    assert {path.parent.name for path in engines} == {"full", "fp16"}
    np.testing.assert_allclose(await _answer(server), _on_the_cpu(matmul(256)), rtol=1e-2, atol=0.5)
    await server.parts.serving.manager.unload("m", ONE)
    await server.parts.serving.manager.load("m", ONE)
    assert _engines(tmp_path / "cache") == engines
