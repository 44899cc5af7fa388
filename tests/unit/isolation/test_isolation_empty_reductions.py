"""ONNX Runtime ignores negative axes where it reduces an empty tensor, so that it has other sizes than ONNX infers."""

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from rowwise_models import FLOAT, INT64, graph, node
from turnout.registry.onnx.graph_reader import describe
from turnout.serving.isolation.empty_inputs import never_empty
from turnout.serving.isolation.hazards import decide, find_hazard

VERSIONS = {"": 18, "com.microsoft": 1, "ai.onnx.ml": 3}
CONSTANTS = {
    "last": np.array([-1]),
    "first": np.array([0]),
    "second": np.array([1]),
    "far": np.array([2**40]),
    "yes": np.array(True),
    "one": np.ones(1, np.float32),
    "row": np.ones((1, 1), np.float32),
    "table": np.ones((1, 3), np.float32),
    "gain": np.ones(4, np.float32),
    "sizes": np.array([2.0], np.float32),
    "two": np.float32(2),
    "scale": np.float32(1),
    "point": np.uint8(0),
}


def reduced(*after: NodeProto, keepdims: int = 1, of: str = "x", axes: str = "last", shape=("n", "t")) -> ModelProto:
    """A model that takes the maxima `r` of an input (or of `of`) and goes on from there."""
    nodes = [node("ReduceMax", f"{of} {axes}", "r", keepdims=keepdims), *after]
    if of != "x":
        nodes = [after[0], nodes[0], *after[1:]]
    return graph(nodes, {"x": (FLOAT, list(shape))}, {"y": (FLOAT, 2)}, CONSTANTS, VERSIONS)


def scan(state: str, steps: str) -> NodeProto:
    body = helper.make_graph(
        [node("Identity", "s", "s2"), node("Identity", "e", "o")],
        "body",
        [helper.make_tensor_value_info(name, FLOAT, None) for name in "se"],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("s2", "o")],
    )
    return node("Scan", f"{state} {steps}", "f y", body=body, num_scan_inputs=1)


def branches(inner: list[NodeProto]) -> NodeProto:
    def branch(name: str) -> object:
        renamed = [
            helper.make_node(
                one.op_type, one.input, [f"{out}_{name}" for out in one.output], one.name, domain=one.domain
            )
            for one in inner
        ]
        return helper.make_graph(renamed, name, [], [helper.make_tensor_value_info(renamed[-1].output[0], FLOAT, None)])

    return node("If", "yes", "b", then_branch=branch("p"), else_branch=branch("q"))


UNSAFE = {
    "a score for each row": reduced(
        node("Unsqueeze", "r second", "u"),
        node("FeatureVectorizer", "u u", domain="ai.onnx.ml", inputdimensions=[1, 1]),
        shape=("t",),
    ),
    "a product that is transposed": reduced(node("Einsum", "table r", equation="bk,ab->k"), shape=(4, "t")),
    "in an optional tensor": reduced(
        node("Optional", "r", "o"),
        node("OptionalGetElement", "o", "e"),
        node("Einsum", "table e", equation="bk,ab->k"),
        shape=(4, "t"),
    ),
    "a state of another rank": reduced(node("Gelu", "r", "g", domain="com.microsoft"), scan("g", "x"), keepdims=0),
    "resized": reduced(node("Resize", "r _ sizes"), keepdims=0),
    "joined with others": reduced(node("Concat", "r row", axis=0)),
    "joined with others, of another rank": reduced(node("Concat", "r one", axis=0), keepdims=0),
    "joined after steps that keep sizes": reduced(
        node("Sqrt", "r", "a"), node("Mul", "a two", "b"), node("Clip", "b", "c"), node("Concat", "c row", axis=0)
    ),
    "joined in branches": reduced(branches([node("Identity", "r", "i")]), node("Concat", "b row", axis=0)),
    "summed over": reduced(
        node("QuantizeLinear", "r scale point", "q"),
        node("Transpose", "q", "t", perm=[1, 0]),
        node("MatMulInteger", "q t", "z"),
        node("Cast", "z", to=FLOAT),
    ),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_a_request_that_makes_a_reduction_empty_is_refused_where_that_is_unsafe(name: str) -> None:
    described = describe(UNSAFE[name])
    assert find_hazard(described) is None
    free = {("x", axis) for axis, size in enumerate(described.graph.inputs["x"].shape or ()) if isinstance(size, str)}
    assert never_empty(described) == free


def normalized(*, mean: bool) -> list[NodeProto]:
    """A layer normalization as it is exported for operator sets that have none, and one by the square mean."""
    centre = [node("ReduceMean", "x last", "m"), node("Sub", "x m", "d")] if mean else [node("Identity", "x", "d")]
    return [
        *centre,
        node("Pow", "d two", "p"),
        node("ReduceMean", "p last", "v"),
        node("Add", "v scale", "e"),
        node("Sqrt", "e", "s"),
        node("Div", "d s", "o"),
        node("Mul", "o gain", "z"),
    ]


SAFE = {
    "layer normalization": normalized(mean=True),
    "normalization by the square mean": normalized(mean=False),
    "softmax": [
        node("ReduceMax", "x last", "m"),
        node("Sub", "x m", "d"),
        node("Exp", "d", "e"),
        node("ReduceSum", "e last", "s"),
        node("Div", "e s", "z"),
    ],
    "unit length": [
        node("ReduceL2", "x last", "l"),
        node("Clip", "l", "c"),
        node("Shape", "x", "s"),
        node("Expand", "c s", "e"),
        node("Div", "x e", "z"),
    ],
    "statistics": [
        node("ReduceMax", "x last", "m", keepdims=0),
        node("ReduceMin", "x last", "i", keepdims=0),
        node("Concat", "m i", "c", axis=-1),
        node("Relu", "c", "z"),
    ],
    "along an axis from the front": [node("ReduceMax", "x first", "m"), node("Concat", "m x", "z", axis=0)],
    "of all": [node("ReduceMax", "x", "m"), node("Concat", "m row", "z", axis=0)],
}


@pytest.mark.parametrize("name", SAFE)
def test_graphs_in_which_the_sizes_come_right_again_take_empty_requests(name: str) -> None:
    proto = graph(
        [*SAFE[name], node("Concat", "z z", axis=0)], {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, 2)}, CONSTANTS, VERSIONS
    )
    described = describe(proto)
    assert (find_hazard(described), never_empty(described)) == (None, frozenset())


def test_a_version_whose_graph_makes_a_reduction_empty_runs_where_memory_is_zeroed() -> None:
    cut = node("Slice", "x far1 far last", "p")
    proto = reduced(cut, node("Concat", "r row", axis=0), of="p")
    proto.graph.initializer.append(helper.make_tensor("far1", INT64, [1], [5]))
    found = decide("auto", describe(proto))
    assert (found.process, found.zeroed) == (True, True)
    assert "where one of the tensors that it joins is empty" in found.reason
