"""Runs that are bound to memory once for all requests of a kind: they answer and fail as plain runs do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_models import identity, matmul, scalar, string_identity
from turnout.config import Runtime
from turnout.errors import InputsRefused
from turnout.registry.onnx.model import read_model
from turnout.serving.sessions.fixed_shape_run import MOST_BYTES, PreparedRun
from turnout.serving.sessions.providers import CPU
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.sessions.tensor import Array

Open = Callable[[onnx.ModelProto], Session]
Value = tuple[str, int, Sequence[int | str | None]]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def make(model: onnx.ModelProto) -> Session:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return Session(SessionSpec(path, read_model(path).signature, [CPU], 0, Runtime()))

    return make


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Mapping[str, Array] = {},
) -> onnx.ModelProto:
    given, got = ([helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs))
    known = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "model", given, got, known)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def bound(session: Session, inputs: Mapping[str, Array], outputs: Sequence[str]) -> PreparedRun | None:
    return PreparedRun.of(session, inputs, outputs, session.run(inputs, outputs))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64, np.uint8, np.bool_])
def test_a_bound_run_gives_what_a_plain_run_gives(opened: Open, dtype: type) -> None:
    model = identity(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    name, out = model.graph.input[0].name, model.graph.output[0].name
    session = opened(model)
    values = [(np.arange(8) % 2 + at % 2).reshape(2, 4).astype(dtype) for at in range(5)]
    run = bound(session, {name: values[0]}, [out])
    assert run is not None
    answers = [run({name: value}, [out])[0] for value in values]
    for value, answer in zip(values, answers, strict=True):  # no answer is written over by a later one
        assert answer.dtype == dtype
        np.testing.assert_array_equal(answer, value)


def test_a_bound_run_of_scalars_gives_what_a_plain_run_gives(opened: Open) -> None:
    session = opened(scalar())
    run = bound(session, {"x": np.asarray(np.float32(1))}, ["y"])
    assert run is not None
    for value in (2.0, -3.5, 1e30):
        (y,) = run({"x": np.asarray(np.float32(value))}, ["y"])
        assert (y.shape, y.dtype, float(y)) == ((), np.float32, 2 * np.float32(value))


def test_many_random_requests_are_answered_bit_by_bit_as_by_plain_runs(opened: Open) -> None:
    model = matmul()
    name, out = model.graph.input[0].name, model.graph.output[0].name
    columns = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    session, random = opened(model), np.random.default_rng(5)
    for rows in (1, 3):
        values = random.standard_normal((50, rows, columns)).astype(np.float32)
        run = bound(session, {name: values[0]}, [out])
        assert run is not None
        for value in values:
            assert run({name: value}, [out])[0].tobytes() == session.run({name: value}, [out])[0].tobytes()


def test_outputs_whose_shape_depends_on_values_are_those_of_a_plain_run(opened: Open) -> None:
    found = helper.make_node("NonZero", ["x"], ["y"])
    session = opened(model_of([found], [("x", TensorProto.FLOAT, [4])], [("y", TensorProto.INT64, [1, None])]))
    requests = [np.float32(pattern) for pattern in ([1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0, 1, 1, 0])]
    run = bound(session, {"x": requests[0]}, ["y"])
    assert run is not None
    for x in (*requests, *requests):
        np.testing.assert_array_equal(run({"x": x}, ["y"])[0], [np.flatnonzero(x)])


def test_a_run_that_fails_for_its_values_fails_alike_and_the_next_is_answered(opened: Open) -> None:
    gather = helper.make_node("Gather", ["table", "i"], ["y"])
    table = {"table": np.arange(3, dtype=np.float32)}
    session = opened(model_of([gather], [("i", TensorProto.INT64, [1])], [("y", TensorProto.FLOAT, [1])], table))
    run = bound(session, {"i": np.int64([1])}, ["y"])
    assert run is not None
    for _ in range(3):
        with pytest.raises(InputsRefused) as refused:
            run({"i": np.int64([7])}, ["y"])
        with pytest.raises(InputsRefused) as plain:
            session.run({"i": np.int64([7])}, ["y"])
        assert refused.value.message == plain.value.message
        np.testing.assert_array_equal(run({"i": np.int64([2])}, ["y"])[0], [2])
    assert run._bound


def test_outputs_that_are_inputs_or_constants_are_their_own(opened: Open) -> None:
    nodes = [helper.make_node("Add", ["x", "one"], ["y"]), helper.make_node("Identity", ["x"], ["same"])]
    outputs = [(name, TensorProto.FLOAT, [2]) for name in ("y", "same", "one")]
    session = opened(model_of(nodes, [("x", TensorProto.FLOAT, [2])], outputs, {"one": np.ones(2, np.float32)}))
    names = ["one", "same", "y"]
    run = bound(session, {"x": np.float32([1, 2])}, names) or session.run
    for x in (np.float32([3, 4]), np.float32([5, 6])):
        given = x.copy()
        one, same, y = run({"x": given}, names)
        given[:] = 0
        np.testing.assert_array_equal([one, same, y], [[1, 1], x, x + 1])


def test_what_comes_out_differently_each_time_is_not_bound(opened: Open) -> None:
    nodes = [helper.make_node("RandomUniformLike", ["x"], ["y"])]
    session = opened(model_of(nodes, [("x", TensorProto.FLOAT, [8])], [("y", TensorProto.FLOAT, [8])]))
    assert bound(session, {"x": np.zeros(8, np.float32)}, ["y"]) is None


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (string_identity(), np.array(["a", "b"], object)),
        (identity(TensorProto.BFLOAT16), np.ones((2, 4), ml_dtypes.bfloat16)),
        (identity(), np.empty((0, 4), np.float32)),
        (identity(), np.ones((MOST_BYTES // 32 + 1, 4), np.float32)),
    ],
    ids=["strings", "bfloat16", "empty", "too large"],
)
def test_what_cannot_be_bound_is_not(opened: Open, model: onnx.ModelProto, value: Array) -> None:
    name, out = model.graph.input[0].name, model.graph.output[0].name
    assert bound(opened(model), {name: value}, [out]) is None
