"""Whether values of inputs reach a size, by the graph alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_models
from turnout.registry.onnx.graph_reader import describe
from turnout.registry.onnx.value_sizes import values_become_sizes

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def node(op_type: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [output], **attributes)


def found(*nodes: onnx.NodeProto, given: Sequence[str] = ("x", "n")) -> bool:
    inputs = [onnx_models.tensor("x", FLOAT, ["a", "b"]), onnx_models.tensor("n", INT64, [2])]
    constants = [
        numpy_helper.from_array(np.array([2, 2]), "two"),
        numpy_helper.from_array(np.array([0.5, 0.5]), "half"),
    ]
    output = [onnx_models.tensor("y", FLOAT, [None, None])]
    proto = onnx_models.model(nodes, inputs, output, constants, opset={"": 18, "com.example": 1})
    return values_become_sizes(describe(proto).graph, given)


def branches(*inner: onnx.NodeProto) -> dict[str, onnx.GraphProto]:
    graph = helper.make_graph(list(inner), "inner", [], [onnx_models.tensor("y", FLOAT, None)])
    return {"then_branch": graph, "else_branch": graph}


@pytest.mark.parametrize(
    ("nodes", "sized"),
    [
        ([node("Relu", ["x"])], False),
        ([node("MatMul", ["x", "x"])], False),
        ([node("Tile", ["x", "two"])], False),
        ([node("Tile", ["x", "n"])], True),
        ([node("Add", ["n", "two"], "m"), node("Cast", ["m"], "k", to=INT64), node("Tile", ["x", "k"])], True),
        ([node("Shape", ["x"], "s"), node("Expand", ["x", "s"])], False),
        ([node("Shape", ["x"], "s"), node("Mul", ["s", "two"], "d"), node("ConstantOfShape", ["d"])], False),
        ([node("Shape", ["x"], "s"), node("Mul", ["s", "n"], "d"), node("ConstantOfShape", ["d"])], True),
        ([node("ReduceMax", ["x"], "m"), node("Range", ["m", "m", "m"])], True),
        ([node("Size", ["x"], "m"), node("Range", ["m", "m", "m"])], False),
        ([node("Reshape", ["x", "n"])], False),
        ([node("NonZero", ["x"])], False),
        ([node("Resize", ["x", "", "half"])], False),
        ([node("Resize", ["x", "", "", "n"])], True),
        ([node("Pad", ["x", "two"])], False),
        ([node("Relu", ["x"], "m"), node("Pad", ["m", "n"])], True),
        ([node("Anything", ["two"], domain="com.example")], False),
        ([node("Anything", ["x"], domain="com.example")], True),
        ([node("ReorderInput", ["x"], domain="com.microsoft.nchwc")], False),
        ([node("BiasGelu", ["x", "x"], domain="com.microsoft")], False),
        ([node("CropAndResize", ["x"], domain="com.microsoft")], True),
        ([node("ReduceMax", ["x"], "c"), node("If", ["c"], **branches(node("Relu", ["x"])))], False),
        ([node("If", ["two"], **branches(node("Tile", ["x", "n"])))], True),
        ([node("If", ["two"], "m", **branches(node("Relu", ["n"]))), node("Tile", ["x", "m"])], True),
        ([node("If", ["two"], "m", **branches(node("Relu", ["two"]))), node("Tile", ["x", "m"])], False),
        ([node("If", ["n"], "m", **branches(node("Relu", ["two"]))), node("Tile", ["x", "m"])], True),
    ],
)
def test_values_are_followed_and_shapes_are_not(nodes: list[onnx.NodeProto], sized: bool) -> None:
    assert found(*nodes) is sized


def test_an_input_that_nobody_sends_decides_nothing() -> None:
    assert found(node("Tile", ["x", "n"]), given=["x"]) is False


def test_a_loop_runs_as_often_as_values_say() -> None:
    assert values_become_sizes(describe(onnx_models.endless()).graph, ["x"]) is True
    assert values_become_sizes(describe(onnx_models.endless()).graph, []) is False
