"""Whether requests may share a run is found out by running."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from semver import Version

from onnx_models import leaky, matmul, model, scaled, tensor
from turnout.config import Runtime
from turnout.registry.manifest import MODEL_FILE, Batching, FileEntry, Manifest
from turnout.registry.onnx_graph import read_graph
from turnout.registry.onnx_model import read_model
from turnout.serving.batchability import BatchPlan, prove
from turnout.serving.providers import CPU
from turnout.serving.session import Session


@pytest.fixture
def proved(tmp_path: Path):
    def run(proto: onnx.ModelProto, batching: Batching | None = None, max_rows: int = 8, golden=()) -> BatchPlan:
        path = tmp_path / "m.onnx"
        onnx.save(proto, path)
        signature = read_model(path).signature
        files = (FileEntry(MODEL_FILE, 1, "sha256:" + "0" * 64),)
        manifest = Manifest("m", Version(1), files, signature, {"": 17}, 8, batching)
        return prove(Session(path, signature, [CPU], 0, Runtime()).run, manifest, max_rows, golden, read_graph(path))

    return run


def test_rows_that_do_not_meet_are_batched(proved) -> None:
    plan = proved(matmul())
    assert (plan.max_rows, plan.input_axes, plan.output_axes) == (8, {"x": 0}, {"y": 0})


def test_rows_that_leak_into_each_other_are_not(proved) -> None:
    plan = proved(leaky())
    assert plan.max_rows == 0
    assert "differs" in plan.reason


def test_a_wrong_declaration_is_found_out(proved) -> None:
    assert proved(leaky(), Batching(axes={"x": 0, "y": 0})).max_rows == 0
    assert proved(matmul(), Batching(axes={"x": 0, "y": 0}, max_rows=4)).max_rows == 4


def test_a_model_without_a_free_dimension_is_not_batched(proved) -> None:
    plan = proved(matmul(batch=1))
    assert plan.max_rows == 0
    assert "free dimension" in plan.reason


def test_the_publisher_and_the_configuration_can_turn_it_off(proved) -> None:
    assert "manifest" in proved(scaled(1), Batching(enabled=False)).reason
    assert "configuration" in proved(scaled(1), max_rows=0).reason


def _state_on_the_second_axis() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["x", "rate"], ["faster"]),
        helper.make_node("Identity", ["faster"], ["y"]),
        helper.make_node("Neg", ["state"], ["next"]),
    ]
    return model(
        nodes,
        [tensor("x", TensorProto.FLOAT, ["N", 4]), tensor("state", TensorProto.FLOAT, [2, "N", 3]),
         tensor("rate", TensorProto.FLOAT, [])],
        [tensor("y", TensorProto.FLOAT, ["N", 4]), tensor("next", TensorProto.FLOAT, [2, "N", 3])],
    )  # fmt: skip


def test_each_input_has_an_axis_of_its_own_and_scalars_have_none(proved) -> None:
    plan = proved(_state_on_the_second_axis())
    assert plan.input_axes == {"x": 0, "state": 1}
    assert plan.output_axes == {"y": 0, "next": 1}


def _wants_long_inputs() -> onnx.ModelProto:
    """Cuts columns 40 to 44 out of x: raises on fewer, through the reshape after it."""
    starts, ends, axes = (
        helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("s", 40), ("e", 44), ("a", 1))
    )
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 4])
    nodes = [
        helper.make_node("Slice", ["x", "s", "e", "a"], ["cut"]),
        helper.make_node("Expand", ["cut", "one"], ["wide"]),
        helper.make_node("Reshape", ["wide", "shape"], ["y"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [2], [1, 4])
    return model(
        nodes,
        [tensor("x", TensorProto.FLOAT, ["N", "T"])],
        [tensor("y", TensorProto.FLOAT, ["N", 4])],
        [starts, ends, axes, shape, one],
    )


def test_longer_inputs_are_tried_where_short_ones_raise(proved) -> None:
    assert proved(_wants_long_inputs()).max_rows == 8


def test_a_golden_case_is_tried_first(proved) -> None:
    plan = proved(_wants_long_inputs(), golden=[{"x": np.ones((3, 50), np.float32)}])
    assert plan.sample is not None
    assert plan.sample["x"].shape == (1, 50)
