"""The shapes that TensorRT builds engines for, and what is said where they are not known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError
from semver import Version

from onnx_models import matmul, model, tensor
from turnout.config import DimensionSizes, Settings
from turnout.errors import InputsRefused, InvalidTensor, ModelFailure
from turnout.registry.manifest.manifest import BatchingDeclaration, FileEntry, Manifest
from turnout.registry.onnx.graph_reader import describe
from turnout.registry.onnx.model import read_model
from turnout.serving.batching.batchability import sample_axes
from turnout.serving.inputs.dimensions import SizeRange
from turnout.serving.inputs.synthetic import recipes, synthetic_by_recipe
from turnout.serving.inputs.validation import Validator
from turnout.serving.sessions.runtime_errors import load_failure, run_failure
from turnout.serving.tensorrt.shapes import NO_PROFILE, ShapeProfile, shape_profile

LIBRARY = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
SIZES = {"time": DimensionSizes(min=2, opt=16, max=64)}


def added(*shapes: Sequence[Any], names: str = "ab", output: Sequence[Any] = ("batch", "time")) -> onnx.ModelProto:
    """y = a + b, with inputs of these shapes."""
    inputs = [tensor(name, FLOAT, shape) for name, shape in zip(names, shapes, strict=False)]
    node = helper.make_node("Add", [value.name for value in inputs] * (3 - len(inputs)), ["y"])
    node.input[:] = node.input[:2]
    return model([node], inputs, [tensor("y", FLOAT, output)])


@pytest.fixture
def profile_of(tmp_path: Path) -> Any:
    def profile_of(
        proto: onnx.ModelProto,
        rows: int = 32,
        given: Mapping[str, DimensionSizes] | None = None,
        batching: BatchingDeclaration | None = None,
    ) -> ShapeProfile:
        return shape_profile(manifest_of(proto, tmp_path, batching), describe(proto), rows, given or {})

    return profile_of


def manifest_of(proto: onnx.ModelProto, folder: Path, batching: BatchingDeclaration | None = None) -> Manifest:
    onnx.save(proto, folder / "model.onnx")
    signature = read_model(folder / "model.onnx").signature
    file = FileEntry("model.onnx", 1, "sha256:" + "0" * 64)
    return Manifest("m", Version(1), (file,), signature, {"": 17}, 8, batching=batching)


def _shapes(profile: ShapeProfile) -> list[str]:
    return [profile.options[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]


def test_rows_are_as_many_as_batches_may_have(profile_of) -> None:
    assert _shapes(profile_of(matmul())) == ["x:1x64", "x:32x64", "x:32x64"]
    assert _shapes(profile_of(matmul(), 8)) == ["x:1x64", "x:8x64", "x:8x64"]
    assert _shapes(profile_of(matmul(), 32, batching=BatchingDeclaration(max_rows=4)))[2] == "x:4x64"
    given = {"batch": DimensionSizes(opt=16, max=256)}
    assert _shapes(profile_of(matmul(), 32, given)) == ["x:1x64", "x:16x64", "x:256x64"]


def test_all_inputs_with_free_dimensions_are_in_each_option_and_no_other(profile_of) -> None:
    proto = added(["batch", "time"], ["batch", "time"])
    assert _shapes(profile_of(proto, 32, SIZES)) == ["a:1x2,b:1x2", "a:32x16,b:32x16", "a:32x64,b:32x64"]
    assert _shapes(profile_of(added(["batch", 4], [1, 4], output=["batch", 4]))) == ["a:1x4", "a:32x4", "a:32x4"]


def test_an_input_that_no_node_uses_needs_no_sizes(profile_of) -> None:
    """ONNX Runtime would not find it in an engine, and build the engine again at each load."""
    proto = matmul()
    proto.graph.input.append(tensor("unused", FLOAT, ["anything"]))
    assert _shapes(profile_of(proto)) == ["x:1x64", "x:32x64", "x:32x64"]


def test_a_declared_axis_needs_no_proof(profile_of) -> None:
    softmax = model(
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        [tensor("x", FLOAT, ["n", 4])],
        [tensor("y", FLOAT, ["n", 4])],
    )
    with pytest.raises(ModelFailure, match=r"the sizes of n are not known"):
        profile_of(softmax)  # its rows depend on one another, so it is not batched
    declared = BatchingDeclaration(axes={"x": 0, "y": 0})
    assert _shapes(profile_of(softmax, batching=declared)) == ["x:1x4", "x:32x4", "x:32x4"]


@pytest.mark.parametrize(
    ("proto", "rows", "unknown"),
    [
        (matmul(), 0, "batch"),
        (matmul(), 1, "batch"),
        (added(["batch", "time"]), 32, "time"),
        (added(["batch", None]), 32, "a.1"),
        (added([1, "height", "width"], output=[1, "height", "width"]), 0, "height, width"),
    ],
)
def test_sizes_that_nobody_knows_are_asked_for_by_the_name_to_give(profile_of, proto, rows: int, unknown: str) -> None:
    with pytest.raises(ModelFailure) as refused:
        profile_of(proto, rows)
    assert refused.value.message.startswith(f"the sizes of {unknown} are not known, ")
    assert refused.value.message.endswith("set [model.m.runtime.tensorrt_sizes]")
    given = {name: DimensionSizes(max=8) for name in unknown.split(", ")}
    assert set(given) <= set(profile_of(proto, rows, given).usual)


def test_a_publisher_who_forbids_batches_leaves_the_rows_unknown(profile_of) -> None:
    with pytest.raises(ModelFailure, match="the sizes of batch are not known"):
        profile_of(matmul(), batching=BatchingDeclaration(enabled=False))


@pytest.mark.parametrize("name", ["x:0", "a,b"])
def test_a_name_that_no_option_can_hold_is_refused(profile_of, name: str) -> None:
    with pytest.raises(ModelFailure, match="ONNX Runtime cannot be told the sizes of an input that is named"):
        profile_of(added(["batch", 4], names=[name], output=["batch", 4]))
    assert not profile_of(added([1, 4], names=[name], output=[1, 4])).options


def test_where_all_shapes_are_fixed_there_is_no_option(profile_of) -> None:
    found = profile_of(matmul(batch=4))
    assert (found.options, found.sizes, found.key) == ({}, {}, "fixed")


def test_a_shape_that_a_value_determines_makes_onnx_runtime_refuse_rather_than_build_in_a_request(profile_of) -> None:
    """A profile of any input makes it refuse tensors without one; that of `shape` would be taken for its values."""
    proto = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [tensor("shape", INT64, [2]), tensor("x", FLOAT, [2, 4])],
        [tensor("y", FLOAT, ["rows", "columns"])],
    )
    assert _shapes(profile_of(proto)) == ["x:2x4"] * 3
    fixed = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [tensor("x", FLOAT, [2, 4])],
        [tensor("y", FLOAT, [4, 2])],
        [numpy_helper.from_array(np.array([4, 2]), "shape")],
    )
    assert not profile_of(fixed).options


def test_each_profile_has_its_own_engines(profile_of) -> None:
    keys = [
        profile_of(matmul()).key,
        profile_of(matmul(), 16).key,
        profile_of(matmul(), 32, {"batch": DimensionSizes(opt=8, max=32)}).key,
        profile_of(matmul(batch=4)).key,
    ]
    assert len(set(keys)) == 4
    assert profile_of(matmul()).key == keys[0]
    assert all(key.isalnum() for key in keys)


def test_no_batch_has_more_rows_than_the_engines_take(profile_of) -> None:
    found = profile_of(matmul(), 32, {"batch": DimensionSizes(max=6)})
    assert found.most_rows({"x": 0}, 32) == 6
    assert found.most_rows({"x": 0}, 4) == 4
    assert found.most_rows({}, 32) == 32
    assert NO_PROFILE.most_rows({"x": 0}, 32) == 32


def test_a_dimension_of_which_there_is_never_one_is_no_batch(profile_of, tmp_path: Path) -> None:
    proto = added([1, "height"], output=[1, "height"])
    manifest = manifest_of(proto, tmp_path)
    assert sample_axes(manifest) == {"a": 1}
    found = profile_of(proto, 0, {"height": DimensionSizes(min=16, opt=20, max=24)})
    assert sample_axes(found.batchable(manifest)) == {}
    assert NO_PROFILE.batchable(manifest) is manifest
    tried = recipes(values_become_sizes=False, sizes=found.usual)
    made = [inputs["a"].shape for _, inputs in synthetic_by_recipe(manifest.signature, tried, {})]
    assert made == [(1, 20)]  # none of the sizes that are tried elsewhere is in its range


@pytest.mark.parametrize(
    ("shape", "wrong"),
    [((1, 2), ""), ((32, 64), ""), ((33, 64), "1 to 32 along axis 0"), ((0, 64), "1 to 32 along axis 0"),
     ((1, 1), "2 to 64 along axis 1"), ((1, 65), "2 to 64 along axis 1")],
)  # fmt: skip
def test_requests_outside_the_sizes_are_refused_and_told_the_setting(profile_of, tmp_path, shape, wrong: str) -> None:
    proto = added(["batch", "time"])
    found = profile_of(proto, 32, SIZES)
    assert found.sizes == {("a", 0): SizeRange(1, 32, 32), ("a", 1): SizeRange(2, 16, 64)}
    validator = Validator(manifest_of(proto, tmp_path).signature, sizes=found.sizes)
    request = {"a": np.zeros(shape, np.float32)}
    if not wrong:
        validator.check(request, ())
        return
    with pytest.raises(InvalidTensor) as refused:
        validator.check(request, ())
    assert f"inputs.a: expected {wrong}, for which TensorRT has built engines" in refused.value.message
    assert "runtime.tensorrt_sizes" in refused.value.message


@pytest.mark.parametrize(
    "wrong", [{"max": 0}, {"min": 4, "max": 2}, {"opt": 9, "max": 8}, {"min": 2, "opt": 1, "max": 8}]
)
def test_sizes_that_are_out_of_order_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Settings(runtime={"tensorrt_sizes": {"time": wrong}})


def test_a_model_s_sizes_take_the_place_of_those_for_all_models() -> None:
    settings = Settings(
        runtime={"tensorrt_sizes": {"time": {"max": 8}}},
        model={"m": {"runtime": {"tensorrt_sizes": {"time": {"min": 2, "max": 64}}}}},
    )
    assert settings.for_model("m").runtime.tensorrt_sizes == {"time": DimensionSizes(min=2, max=64)}
    assert settings.for_model("other").runtime.tensorrt_sizes == {"time": DimensionSizes(max=8)}


@pytest.mark.skipif(not LIBRARY.exists(), reason="this build of ONNX Runtime has no TensorRT provider")
def test_the_provider_knows_the_options_and_says_what_is_understood(profile_of) -> None:
    known = LIBRARY.read_bytes()
    assert [name for name in profile_of(matmul()).options if b"\0" + name.encode() + b"\0" not in known] == []
    for said in (
        b"Following input(s) has no associated shape profiles provided: ",
        b"TensorRT EP failed to call nvinfer1::IExecutionContext::setInputShape() for input '",
    ):
        assert said in known


def test_what_the_provider_says_of_shapes_is_told_in_words() -> None:
    refused = load_failure(
        RuntimeError(
            "[ONNXRuntimeError] : 11 : EP_FAIL : User needs to provide all the dynamic shape inputs with associated"
            " profiles if they want to explicitly set profiles through provider options.\nPlease note that main graph"
            " could be partitioned into TRT/CUDA/CPU subgraphs, in this case, user also needs to provide shape profiles"
            " for the TRT subgraph's input if it's dynamic shape input.\nFollowing input(s) has no associated shape"
            " profiles provided: /NonZero_output_0,scores"
        )
    )
    assert type(refused) is ModelFailure
    assert refused.message.startswith("the sizes of /NonZero_output_0,scores are known in a run only")
    outside = run_failure(
        RuntimeError(
            "[ONNXRuntimeError] : 11 : EP_FAIL : Non-zero status code returned while running TRTKernel_graph_1 node."
            " Name:'TRTKernel_graph_1_0' Status Message: TensorRT EP failed to call"
            " nvinfer1::IExecutionContext::setInputShape() for input 'x'"
        )
    )
    assert isinstance(outside, InputsRefused)
    assert outside.message == "inputs.x: expected a shape for which TensorRT has built engines"
