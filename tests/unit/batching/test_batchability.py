"""Whether requests may share a run is found out by running."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from semver import Version

from onnx_models import leaky, matmul, model, scaled, tensor
from rowwise_models import FLOAT, X, drops_stop_words, graph, keeps_by_mask, node, squeezes_single_frames
from turnout.config import Runtime
from turnout.errors import ModelFailure
from turnout.registry.manifest.manifest import MODEL_FILE, BatchingDeclaration, FileEntry, Manifest
from turnout.registry.onnx.graph_reader import read_graph
from turnout.registry.onnx.model import read_model
from turnout.serving.batching.batch import shape_of
from turnout.serving.batching.batchability import BatchPlan, prove
from turnout.serving.sessions.providers import CPU
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec


@pytest.fixture
def proved(tmp_path: Path):
    def run(
        proto: onnx.ModelProto, batching: BatchingDeclaration | None = None, max_rows: int = 8, golden=()
    ) -> BatchPlan:
        path = tmp_path / "m.onnx"
        onnx.save(proto, path)
        signature = read_model(path).signature
        files = (FileEntry(MODEL_FILE, 1, "sha256:" + "0" * 64),)
        manifest = Manifest("m", Version(1), files, signature, {"": 17}, 8, batching)
        session = Session(SessionSpec(path, signature, [CPU], 0, Runtime()))
        return prove(session.run, manifest, max_rows, golden, read_graph(path))

    return run


def test_rows_that_do_not_meet_are_batched(proved) -> None:
    plan = proved(matmul())
    assert (plan.max_rows, plan.input_axes, plan.output_axes) == (8, {"x": 0}, {"y": 0})


def test_rows_that_leak_into_each_other_are_not(proved) -> None:
    plan = proved(leaky())
    assert plan.max_rows == 0
    assert "differs" in plan.reason


def test_a_wrong_declaration_is_found_out(proved) -> None:
    assert proved(leaky(), BatchingDeclaration(axes={"x": 0, "y": 0})).max_rows == 0
    assert proved(matmul(), BatchingDeclaration(axes={"x": 0, "y": 0}, max_rows=4)).max_rows == 4


def test_a_model_without_a_free_dimension_is_not_batched(proved) -> None:
    plan = proved(matmul(batch=1))
    assert plan.max_rows == 0
    assert "free dimension" in plan.reason


def test_the_publisher_and_the_configuration_can_turn_it_off(proved) -> None:
    assert "manifest" in proved(scaled(1), BatchingDeclaration(enabled=False)).reason
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


def _own_operator_that_keeps_rows() -> onnx.ModelProto:
    """y = x, by way of a graph that no rule speaks for: rows are written where they are."""
    places = [
        node("Shape", "x", "size", end=1),
        node("Squeeze", "size", "count"),
        node("Range", "zero count one", "places"),
        node("Unsqueeze", "places last", "rows"),
        node("ScatterND", "x rows x"),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "last": np.array([1])}
    return graph(places, X, {"y": (FLOAT, 2)}, constants)


def test_what_the_graph_does_not_prove_is_batched_only_where_it_is_declared_and_runs_agree(proved) -> None:
    undeclared = proved(_own_operator_that_keeps_rows())
    assert undeclared.max_rows == 0
    assert not undeclared.mixes
    assert "the graph does not prove" in undeclared.reason
    assert "Range" in undeclared.reason
    declared = proved(_own_operator_that_keeps_rows(), BatchingDeclaration(axes={"x": 0, "y": 0}))
    assert (declared.max_rows, declared.input_axes, declared.output_axes) == (8, {"x": 0}, {"y": 0})
    assert declared.reason.startswith("batched (declared, and runs agree; the graph does not prove it: Range")
    assert (
        proved(matmul(), BatchingDeclaration(axes={"x": 0, "y": 0})).reason
        == "batched (declared and proved by graph and run: x axis 0)"
    )


@pytest.mark.parametrize("make", [keeps_by_mask, drops_stop_words, leaky])
def test_no_declaration_has_rows_mixed_up(proved, make) -> None:
    proto = make()
    names = [value.name for value in [*proto.graph.input, *proto.graph.output]]
    plan = proved(proto, BatchingDeclaration(axes=dict.fromkeys(names, 0)))
    assert plan.max_rows == 0
    assert proto.graph.node[-1].op_type in plan.reason or proto.graph.node[0].op_type in plan.reason


def test_a_declared_output_axis_is_checked(proved) -> None:
    assert "grows along axis 0, not 1" in proved(matmul(), BatchingDeclaration(axes={"x": 0, "y": 1})).reason


def test_a_graph_that_is_proved_for_some_sizes_names_them(proved) -> None:
    plan = proved(squeezes_single_frames())
    assert plan.max_rows == 8
    assert "for sizes of other dimensions that the graph is proved for" in plan.reason
    assert plan.sizes is not None
    assert plan.sample is not None
    known = (("x", plan.sample["x"].shape[1:]),)
    assert plan.sizes.holds(known)


def test_a_model_that_ran_on_nothing_is_batched_only_where_it_is_declared_and_the_graph_proves_it(tmp_path) -> None:
    def refuses(_inputs: object, _names: object) -> list[np.ndarray]:
        raise ModelFailure("not this")

    def plan(proto: onnx.ModelProto, batching: BatchingDeclaration | None) -> BatchPlan:
        path = tmp_path / "m.onnx"
        onnx.save(proto, path)
        signature = read_model(path).signature
        files = (FileEntry(MODEL_FILE, 1, "sha256:" + "0" * 64),)
        manifest = Manifest("m", Version(1), files, signature, {"": 17}, 8, batching)
        return prove(refuses, manifest, 8, (), read_graph(path))

    declared = BatchingDeclaration(axes={"x": 0, "y": 0})
    assert plan(matmul(), declared).max_rows == 8
    assert "publish a golden case" in plan(matmul(), None).reason
    assert plan(leaky(), declared).max_rows == 0


def test_a_golden_case_is_tried_first(proved) -> None:
    plan = proved(_wants_long_inputs(), golden=[{"x": np.ones((3, 50), np.float32)}])
    assert plan.sample is not None
    assert plan.sample["x"].shape == (1, 50)


def test_requests_that_break_what_a_symbol_says_share_no_run(proved) -> None:
    """Exporters reuse symbols, and nothing refuses two inputs that differ in one. The proof takes them for equal: the
    slice is all rows only where x has as many columns as y.
    """
    proto = graph(
        [
            node("Shape", "y", "width", start=1, end=2), node("Concat", "minus width", "target", axis=0),
            node("Reshape", "x target", "r"), node("Shape", "x", "n", start=0, end=1), node("Slice", "r zero n", "z"),
        ],
        {"x": (FLOAT, ["n", "c"]), "y": (FLOAT, ["n", "c"])}, {"z": (FLOAT, 2)}, {"minus": [-1], "zero": [0]},
    )  # fmt: skip
    plan = proved(proto)
    x = np.arange(6, dtype=np.float32).reshape(1, 6)
    assert plan.max_rows == 8
    assert shape_of(plan, {"x": x, "y": x}) is not None
    assert shape_of(plan, {"x": x, "y": x[:, :2]}) is None


def test_a_symbol_says_nothing_of_an_input_that_need_not_be_sent(proved) -> None:
    proto = graph(
        [
            node("Shape", "w", "width", start=1, end=2), node("Concat", "minus width", "target", axis=0),
            node("Reshape", "x target", "r"), node("Shape", "x", "n", start=0, end=1), node("Slice", "r zero n", "z"),
        ],
        {"x": (FLOAT, ["n", "c"]), "w": (FLOAT, [1, "c"])}, {"z": (FLOAT, 2)},
        {"minus": [-1], "zero": [0], "w": [[1.0, 2.0]]},
    )  # fmt: skip
    plan = proved(proto)
    assert plan.max_rows == 0
    assert "Reshape" in plan.reason
