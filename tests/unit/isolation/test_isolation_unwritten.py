"""Which graphs leave part of an answer as it was in memory, although no input of a request is empty."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto

import rowwise_models
from nested_models import PLACES
from rowwise_models import BOOL, FLOAT, UINT8, graph, node
from turnout.registry.onnx.graph_reader import describe
from turnout.serving.isolation.hazards import decide
from turnout.serving.isolation.unwritten import find_unwritten

NUMBERS = {"from": [50], "ends": [2**40], "second": [1], "zero": [0], "scale": np.float32(0.1), "point": np.uint8(3)}
CUT, QUANTIZED = node("Slice", "x from ends second", "p"), node("QuantizeLinear", "x scale point", "q")
CUT_QUANTIZED, TURNED = node("Slice", "q from ends second", "p"), node("Transpose", "p", "t", perm=[1, 0])
JOINED = node("Concat", "p x", axis=0)


def of(*nodes: NodeProto, element: int = FLOAT, flags: bool = False, **numbers: object) -> ModelProto:
    inputs = {"x": (FLOAT, ["n", "t"])} | ({"keep": (BOOL, ["t"])} if flags else {})
    return graph(nodes, inputs, {"y": (element, 2)}, NUMBERS | numbers, {"": 18, "com.microsoft": 1})


UNWRITTEN: Mapping[str, Callable[[], ModelProto]] = {
    "joined": lambda: of(CUT, JOINED),
    "joined by a sequence": lambda: of(
        CUT, node("SequenceConstruct", "p x", "s"), node("ConcatFromSequence", "s", axis=0)
    ),
    "joined by a sequence of which one is dropped": lambda: of(
        CUT,
        node("SequenceConstruct", "x p x", "s"),
        node("SequenceErase", "s", "r"),
        node("ConcatFromSequence", "r", axis=0),
    ),
    "joined by a sequence of parts": lambda: of(
        node("SplitToSequence", "x sizes", "s", axis=1),
        node("SequenceInsert", "s x", "r"),
        node("ConcatFromSequence", "r", axis=0),
        sizes=[1, 0],
    ),
    "joined by a quantized operator": lambda: of(
        QUANTIZED,
        CUT_QUANTIZED,
        node("QLinearConcat", "scale point p scale point q scale point", domain="com.microsoft", axis=0),
        element=UINT8,
    ),
    "summed as integers": lambda: of(
        QUANTIZED, CUT_QUANTIZED, TURNED, node("MatMulInteger", "p t"), element=TensorProto.INT32
    ),
    "summed by a quantized operator": lambda: of(
        QUANTIZED,
        CUT_QUANTIZED,
        TURNED,
        node("QLinearMatMul", "p scale point t scale point scale point"),
        element=UINT8,
    ),
    "summed when dequantized": lambda: of(
        QUANTIZED,
        CUT_QUANTIZED,
        node("DequantizeLinear", "p scale point", "d"),
        node("Transpose", "d", "t", perm=[1, 0]),
        node("MatMul", "d t"),
    ),
    "selected": lambda: of(node("Compress", "x keep", "p", axis=1), JOINED, flags=True),
    "cut to fewer columns than there may be": lambda: of(
        node("Shape", "x", "sizes"),
        node("Gather", "sizes second", "columns"),
        node("Sub", "columns from", "last"),
        node("Slice", "x zero last second", "p"),
        JOINED,
    ),
    "padded by a negative number": lambda: of(node("Pad", "x pads", "p"), JOINED, pads=[0, -1, 0, 0]),
    "shrunk": lambda: of(
        node("Unsqueeze", "x outer", "picture"),
        node("Resize", "picture _ factors", "small"),
        node("Squeeze", "small outer", "p"),
        JOINED,
        outer=[0, 1],
        factors=[1.0, 1.0, 1.0, 0.3],
    ),
    "pooled": lambda: of(
        node("Unsqueeze", "x zero", "line"),
        node("MaxPool", "line", "small", kernel_shape=[3]),
        node("Squeeze", "small zero", "p"),
        JOINED,
    ),
    "one of two scores": rowwise_models.scores_by_probit,
}
WRITTEN: Mapping[str, Callable[[], ModelProto]] = {
    "joined along the axis that was cut": lambda: of(CUT, node("Concat", "p x", axis=1)),
    "joined after the first columns were kept": lambda: of(
        node("Slice", "x zero second second", "p"), node("Concat", "p p", axis=0)
    ),
    "joined with itself": lambda: of(CUT, node("Concat", "p p", axis=0)),
    "joined by a sequence without a cut": lambda: of(
        node("SequenceEmpty", "", "e"),
        node("SequenceInsert", "e x", "s"),
        node("Relu", "x", "p"),
        node("SequenceInsert", "s p", "r"),
        node("ConcatFromSequence", "r", axis=0),
    ),
    "joined without a cut": lambda: of(node("Relu", "x", "p"), JOINED),
    "joined after a window that fits": lambda: of(
        node("Unsqueeze", "x zero", "line"),
        node("MaxPool", "line", "same", kernel_shape=[3], pads=[1, 1]),
        node("Squeeze", "same zero", "p"),
        JOINED,
    ),
    "summed as fractions": lambda: of(CUT, TURNED, node("MatMul", "p t")),
    "summed as integers without a cut": lambda: of(
        QUANTIZED, node("Transpose", "q", "t", perm=[1, 0]), node("MatMulInteger", "q t"), element=TensorProto.INT32
    ),
    "summed over known features": lambda: of(
        QUANTIZED, CUT_QUANTIZED, node("MatMulInteger", "p w"), element=TensorProto.INT32, w=np.ones((4, 2), np.uint8)
    ),
}


@pytest.mark.parametrize("how", UNWRITTEN)
def test_what_a_graph_may_leave_unwritten_is_found(how) -> None:
    described = describe(UNWRITTEN[how]())
    assert "leaves what was in memory" in str(find_unwritten(described))
    assert decide("auto", described).process
    assert all(decide(wish, described).zeroed is (wish != "thread") for wish in ("auto", "process", "thread"))


@pytest.mark.parametrize("how", WRITTEN)
def test_what_is_always_written_is_not(how) -> None:
    described = describe(WRITTEN[how]())
    assert find_unwritten(described) is None
    assert not decide("process", described).zeroed


@pytest.mark.parametrize("place", PLACES)
def test_it_is_found_wherever_it_is(place) -> None:
    assert "Concat" in str(find_unwritten(describe(PLACES[place](of(CUT, JOINED)))))


@pytest.mark.parametrize("place", ["in a branch", "in a loop"])
def test_a_tensor_that_comes_out_of_a_place_may_be_empty(place) -> None:
    proto = graph([CUT], {"x": (FLOAT, ["n", "t"])}, {"p": (FLOAT, 2)}, NUMBERS)
    moved = PLACES[place](proto)
    joined = of(JOINED)
    moved.graph.node.extend(joined.graph.node)
    del moved.graph.output[:]
    moved.graph.output.extend(joined.graph.output)
    assert "Concat" in str(find_unwritten(describe(moved)))
