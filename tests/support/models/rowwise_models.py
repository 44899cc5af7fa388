"""Small models of many kinds, in which rows depend on each other, or can be moved, dropped or mixed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnx_models import Dim, model, tensor

FLOAT, INT64, BOOL, STRING, UINT8, INT32 = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.STRING,
    TensorProto.UINT8,
    TensorProto.INT32,
)
Make = Callable[[], ModelProto]


def node(operator: str, inputs: str, outputs: str = "y", **attributes: Any) -> NodeProto:
    """Creates a node. Names of tensors are separated by spaces, and `_` stands for an omitted one."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(operator, names, outputs.split(), **attributes)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Dim]]],
    outputs: Mapping[str, tuple[int, int]],
    constants: Mapping[str, Any] | None = None,
    opset: int | Mapping[str, int] = 18,
) -> ModelProto:
    """Creates a model.

    Args:
        nodes: Nodes in order.
        inputs: Element type and shape of each input, by name.
        outputs: Element type and rank of each output, by name. Their dimensions are left open.
        constants: Initialisers by name, as accepted by NumPy. Floating-point numbers become float32.
        opset: Version of ONNX's standard operators, or versions by domain.
    """
    values = {
        n: np.asarray(v, np.float32) if np.asarray(v).dtype == np.float64 else np.asarray(v)
        for n, v in (constants or {}).items()
    }
    return model(
        nodes,
        [tensor(name, element, shape) for name, (element, shape) in inputs.items()],
        [tensor(name, element, [None] * rank) for name, (element, rank) in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
        opset=opset if isinstance(opset, Mapping) else {"": opset},
        ir_version=9,
    )


X: Mapping[str, tuple[int, Sequence[Dim]]] = {"x": (FLOAT, ["n", 4])}
IMAGE: Mapping[str, tuple[int, Sequence[Dim]]] = {"x": (FLOAT, ["n", 2, 6, 6])}
Y = {"y": (FLOAT, 2)}


def _one(operator: str, inputs: str = "x", rank: int = 2, element: int = FLOAT, **more: Any) -> Make:
    """Returns a function that creates a model with one operator on x, float32 (n, 4)."""
    constants = more.pop("constants", None)
    opset = more.pop("opset", 18)
    takes = more.pop("takes", X)
    return lambda: graph([node(operator, inputs, **more)], takes, {"y": (element, rank)}, constants, opset)


def _several(*nodes: NodeProto, rank: int = 2, element: int = FLOAT, **more: Any) -> Make:
    takes = more.pop("takes", X)
    return lambda: graph(nodes, takes, {"y": (element, rank)}, more.get("constants"), more.get("opset", 18))


def keeps_by_mask() -> ModelProto:
    """Keeps the rows whose first column exceeds a threshold. float32 (n, 64); eight products make batching pay off."""
    width, depth = 64, 8
    random = np.random.default_rng(0)
    nodes = [node("MatMul", f"{'x' if not i else f'h{i - 1}'} w{i}", f"h{i}") for i in range(depth)]
    nodes += [
        node("Gather", "x first", "column", axis=1),
        node("Squeeze", "column axis", "scores"),
        node("Greater", "scores least", "keep"),
        node("Compress", "x keep", "kept", axis=0),
        node("Compress", f"h{depth - 1} keep", "embedding", axis=0),
    ]
    constants = {f"w{i}": np.linalg.qr(random.standard_normal((width, width)))[0] for i in range(depth)}
    constants |= {"first": np.array([0]), "axis": np.array([1]), "least": np.float64(-50)}
    return graph(nodes, {"x": (FLOAT, ["n", width])}, {"kept": (FLOAT, 2), "embedding": (FLOAT, 2)}, constants)


def drops_stop_words() -> ModelProto:
    """Converts strings to lower case and drops "the" and "a". string (n)."""
    normalizer = node(
        "StringNormalizer", "x", case_change_action="LOWER", stopwords=["the", "a"], is_case_sensitive=0, locale="C"
    )
    return graph([normalizer], {"x": (STRING, ["n"])}, {"y": (STRING, 1)})


def squeezes_single_frames() -> ModelProto:
    """Drops the second dimension if it is 1, so that the rank is known only when it runs. float32 (n, t, 4)."""
    then = helper.make_graph(
        [node("Squeeze", "x second", "a")], "then", [], [helper.make_tensor_value_info("a", FLOAT, None)]
    )
    other = helper.make_graph(
        [node("Identity", "x", "b")], "else", [], [helper.make_tensor_value_info("b", FLOAT, None)]
    )
    nodes = [
        node("Shape", "x", "size"),
        node("Gather", "size second", "t"),
        node("Equal", "t second", "single"),
        node("If", "single", then_branch=then, else_branch=other),
    ]
    return graph(nodes, {"x": (FLOAT, ["n", "t", 4])}, {"y": (FLOAT, 3)}, {"second": np.array([1])})


def reshapes_to_rows_of_another() -> ModelProto:
    """Makes squares of 2 rows of four numbers, as many as `c` has. ONNX Runtime replaces the number of rows by -1, and
    so takes squares of other sizes, too. float32 (n, s, s), (n, 1).
    """
    nodes = [
        node("Shape", "c", "sizes"),
        node("Gather", "sizes zero", "n", axis=0),
        node("Concat", "n one four", "to", axis=0),
        node("Reshape", "x to"),
    ]
    inputs = {"x": (FLOAT, ["n", "s", "s"]), "c": (FLOAT, ["n", 1])}
    constants = {"zero": np.array([0]), "one": np.array([1]), "four": np.array([4])}
    return graph(nodes, inputs, {"y": (FLOAT, 3)}, constants)


def _loop_that_ends_by_rows() -> ModelProto:
    """Doubles x until the largest element exceeds 100."""
    body = helper.make_graph(
        [node("Add", "v v", "w"), node("ReduceMax", "w", "top", keepdims=0), node("Less", "top hundred", "again")],
        "body",
        [tensor("i", INT64, []), tensor("c", BOOL, []), tensor("v", FLOAT, ["n", 4])],
        [tensor("again", BOOL, []), tensor("w", FLOAT, ["n", 4])],
    )
    return graph(
        [node("Loop", "count yes x", body=body)], X, Y, {"count": np.array(9), "yes": np.array(True), "hundred": 100.0}
    )


def _if_by_rows() -> ModelProto:
    """Negates all rows if the sum of all elements is above 0."""
    then = helper.make_graph([node("Neg", "x", "a")], "then", [], [tensor("a", FLOAT, ["n", 4])])
    other = helper.make_graph([node("Identity", "x", "b")], "else", [], [tensor("b", FLOAT, ["n", 4])])
    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Greater", "sum zero", "above"),
        node("If", "above", then_branch=then, else_branch=other),
    ]
    return graph(nodes, X, Y, {"zero": 0.0})


def _if_by_count() -> ModelProto:
    """Negates the rows if there are several."""
    proto = _if_by_rows()
    del proto.graph.node[:2]
    for made in [node("Gather", "size first", "count"), node("Shape", "x", "size")]:
        proto.graph.node.insert(0, made)
    proto.graph.node.insert(2, node("Greater", "count one", "above"))
    proto.graph.initializer.extend(
        [numpy_helper.from_array(np.array(0), "first"), numpy_helper.from_array(np.array(1), "one")]
    )
    return proto


def _scan_over_rows() -> ModelProto:
    """Replaces each row with the sum of the rows up to it."""
    body = helper.make_graph(
        [node("Add", "s r", "t"), node("Identity", "t", "u")],
        "body",
        [tensor("s", FLOAT, [4]), tensor("r", FLOAT, [4])],
        [tensor("t", FLOAT, [4]), tensor("u", FLOAT, [4])],
    )
    return graph([node("Scan", "zero x", "last y", body=body, num_scan_inputs=1)], X, Y, {"zero": [0.0] * 4})


def _sequence_map() -> ModelProto:
    body = helper.make_graph(
        [node("Neg", "r", "s")], "body", [tensor("r", FLOAT, ["k", 4])], [tensor("s", FLOAT, ["k", 4])]
    )
    nodes = [
        node("SplitToSequence", "x", "rows", axis=0),
        node("SequenceMap", "rows", "negated", body=body),
        node("ConcatFromSequence", "negated", axis=0),
    ]
    return graph(nodes, X, Y)


def _lstm_over_rows() -> ModelProto:
    """An LSTM that treats the rows as time steps. float32 (n, 1, 4)."""
    random = np.random.default_rng(1)
    weights = {name: random.standard_normal((1, 8, width)) for name, width in (("w", 4), ("r", 2))}
    return graph([node("LSTM", "x w r", hidden_size=2)], {"x": (FLOAT, ["n", 1, 4])}, {"y": (FLOAT, 4)}, weights)


def _attention_over_rows() -> ModelProto:
    """softmax(x xT) x: every row attends to all others."""
    nodes = [
        node("Transpose", "x", "xt"),
        node("MatMul", "x xt", "s"),
        node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p x"),
    ]
    return graph(nodes, X, Y)


def _mean_by_count() -> ModelProto:
    """Divides by the number of rows, which comes from a shape."""
    nodes = [node("Shape", "x", "size", end=1), node("Cast", "size", "count", to=FLOAT), node("Div", "x count")]
    return graph(nodes, X, Y)


def _row_numbers() -> ModelProto:
    """Adds its index to each row."""
    nodes = [
        node("Shape", "x", "size", end=1),
        node("Squeeze", "size", "count"),
        node("Range", "zero count one", "places"),
        node("Cast", "places", "p", to=FLOAT),
        node("Unsqueeze", "p axis", "column"),
        node("Add", "x column"),
    ]
    return graph(nodes, X, Y, {"zero": np.array(0), "one": np.array(1), "axis": np.array([1])})


def _custom() -> ModelProto:
    return graph([node("Foo", "x", domain="somebody")], X, Y, opset={"": 18, "somebody": 1})


def _quantized_by_all() -> ModelProto:
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z")]
    return graph(nodes, X, Y)


def _non_max_suppression() -> ModelProto:
    """Boxes (n, 4, 4) and scores (n, 1, 4): the answer contains row numbers."""
    takes: Mapping[str, tuple[int, Sequence[Dim]]] = {"x": (FLOAT, ["n", 4, 4]), "s": (FLOAT, ["n", 1, 4])}
    return graph([node("NonMaxSuppression", "x s most")], takes, {"y": (INT64, 2)}, {"most": np.array([2])})


def _masked(operator: str) -> Make:
    def make() -> ModelProto:
        nodes = [
            node("ReduceMax", "x axes", "top", keepdims=0),
            node("Greater", "top zero", "keep"),
            node(operator, "x keep", axis=0),
        ]
        return graph(nodes, X, Y, {"axes": np.array([1]), "zero": 0.0})

    return make


def _two_axes() -> ModelProto:
    """x of (n, 1) and a of (1, n): the result combines all rows of one with all of the other."""
    takes: Mapping[str, tuple[int, Sequence[Dim]]] = {"x": (FLOAT, ["n", 1]), "a": (FLOAT, [1, "n"])}
    return graph([node("Add", "x a")], takes, Y)


def scores_by_probit() -> ModelProto:
    """Classifies into two classes. ONNX Runtime writes one score for each row where there should be two.

    The first rows so get the scores of later ones, and the last what was in memory.
    """
    how: Mapping[str, Any] = {"coefficients": [0.1] * 4, "intercepts": [0.5], "post_transform": "PROBIT"}
    made = node("LinearClassifier", "x", "label y", domain="ai.onnx.ml", classlabels_ints=[0, 1], **how)
    return graph([made], X, {"label": (INT64, 1), "y": (FLOAT, 2)}, opset={"": 18, "ai.onnx.ml": 3})


MIX: Mapping[str, Make] = {
    "keeps rows by a mask": keeps_by_mask,
    "packs the scores of all rows": scores_by_probit,
    "drops stop words": drops_stop_words,
    "Compress": _masked("Compress"),
    "NonZero": _one("NonZero", element=INT64),
    "Unique": _one("Unique", axis=0),
    "Unique of all": _one("Unique", rank=1),
    "ReduceMean over rows": _one("ReduceMean", "x axes", constants={"axes": np.array([0])}),
    "ReduceMean over a negative axis": _one("ReduceMean", "x axes", constants={"axes": np.array([-2])}),
    "ReduceMean by attribute": _one("ReduceMean", axes=[0], opset=13),
    "ReduceSum over all": _one("ReduceSum"),
    "ReduceMax subtracted": _several(
        node("ReduceMax", "x axes", "top"), node("Sub", "x top"), constants={"axes": np.array([0])}
    ),
    "ArgMax of rows": _one("ArgMax", element=INT64),
    "ArgMin of rows": _one("ArgMin", element=INT64, axis=-2),
    "CumSum of rows": _one("CumSum", "x axis", constants={"axis": np.array(0)}),
    "CumSum over a negative axis": _one("CumSum", "x axis", constants={"axis": np.array(-2)}),
    "TopK of rows": _several(node("TopK", "x k", "y i", axis=0), constants={"k": np.array([1])}),
    "Softmax over rows": _one("Softmax", axis=0),
    "Softmax of opset 11 over all": _one("Softmax", axis=0, opset=11),
    "Softmax of opset 11 over the last two": _one(
        "Softmax", axis=1, opset=11, rank=3, takes={"x": (FLOAT, [2, "n", 4])}
    ),
    "LogSoftmax over rows": _one("LogSoftmax", axis=0),
    "Hardmax over rows": _one("Hardmax", axis=-2),
    "LpNormalization over rows": _one("LpNormalization", axis=0),
    "LayerNormalization over all": _one("LayerNormalization", "x s", axis=0, constants={"s": [1.0] * 4}),
    "MeanVarianceNormalization": _one("MeanVarianceNormalization", rank=4, takes=IMAGE),
    "BatchNormalization that learns": _several(
        node("BatchNormalization", "x s b m v", "y mean var", training_mode=1),
        constants={"s": [1.0] * 4, "b": [0.0] * 4, "m": [0.0] * 4, "v": [1.0] * 4},
    ),
    "Dropout that learns": _one("Dropout", "x ratio yes", constants={"ratio": np.float64(0.5), "yes": np.array(True)}),
    "RandomNormalLike": _several(node("RandomNormalLike", "x", "r"), node("Add", "x r")),
    "RandomUniform": _several(node("RandomUniform", "", "r", shape=[4]), node("Add", "x r")),
    "Bernoulli": _one("Bernoulli"),
    "Multinomial": _one("Multinomial", element=INT32, sample_size=2),
    "DynamicQuantizeLinear": _quantized_by_all,
    "Loop that ends by rows": _loop_that_ends_by_rows,
    "If by rows": _if_by_rows,
    "If by the number of rows": _if_by_count,
    "Scan over rows": _scan_over_rows,
    "SequenceMap over rows": _sequence_map,
    "LSTM over rows": _lstm_over_rows,
    "attention over rows": _attention_over_rows,
    "a custom operator": _custom,
    "NonMaxSuppression": _non_max_suppression,
    "divides by the number of rows": _mean_by_count,
    "numbers its rows": _row_numbers,
    "rows along two axes": _two_axes,
    "rows as weights": _one("MatMul", "w x", constants={"w": np.ones((2, 4)) * 0.5}, takes={"x": (FLOAT, ["n", 4])}),
    "Gemm that adds up rows": _one("Gemm", "x x", transA=1),
    "Einsum that adds up rows": _one("Einsum", equation="ij->j", rank=1),
    "Einsum of all with all": _one("Einsum", "x x", equation="ij,kj->ik"),
    "Transpose, then a row's sum": _several(
        node("Transpose", "x", "t"), node("ReduceSum", "t axes"), constants={"axes": np.array([1])}
    ),
    "Reshape that folds rows into columns": _one("Reshape", "x s", constants={"s": np.array([2, -1])}),
    "Reshape to one row": _several(
        node("Reshape", "x s", "r"), node("Softmax", "r", axis=1), constants={"s": np.array([1, -1])}
    ),
    "Flatten of all": _several(node("Flatten", "x", "f", axis=0), node("Softmax", "f", axis=1)),
    "Slice that skips a row": _one(
        "Slice", "x s e a", constants={"s": np.array([1]), "e": np.array([2**62]), "a": np.array([0])}
    ),
    "Slice of the first two rows": _one(
        "Slice", "x s e a", constants={"s": np.array([0]), "e": np.array([2]), "a": np.array([0])}
    ),
    "Slice that turns rows round": _one(
        "Slice",
        "x s e a t",
        constants={"s": np.array([-1]), "e": np.array([-(2**62)]), "a": np.array([0]), "t": np.array([-1])},
    ),
    "Gather of the last row": _one("Gather", "x i", constants={"i": np.array([-1])}),
    "Gather of rows": _one("Gather", "x i", takes={"x": (FLOAT, ["n", 4]), "i": (INT64, ["n"])}),
    "Gather of strings before rows": _one(
        "Gather", "x i", rank=2, element=STRING, constants={"i": np.array([0])}, takes={"x": (STRING, [2, "n"])}
    ),
    "GatherND of rows": _one("GatherND", "x i", takes={"x": (FLOAT, ["n", 4]), "i": (INT64, ["n", 1])}),
    "GatherElements by place": _one(
        "GatherElements", "w i", axis=1, constants={"w": np.arange(12.0).reshape(3, 4)}, takes={"i": (INT64, ["n", 2])}
    ),
    "GatherElements of rows": _one(
        "GatherElements", "x i", axis=0, takes={"x": (FLOAT, ["n", 4]), "i": (INT64, ["n", 4])}
    ),
    "ScatterElements into rows": _one(
        "ScatterElements", "x i x", axis=0, takes={"x": (FLOAT, ["n", 4]), "i": (INT64, ["n", 4])}
    ),
    "ScatterND into rows": _one(
        "ScatterND", "x i u", takes={"x": (FLOAT, ["n", 4]), "i": (INT64, ["n", 1]), "u": (FLOAT, ["n", 4])}
    ),
    "Concat of rows": _one("Concat", "x x", axis=0),
    "Split of rows": _several(node("Split", "x", "y z", axis=0), constants={}, opset=13),
    "Squeeze of whatever is 1": _one("Squeeze"),
    "Tile of rows": _one("Tile", "x r", constants={"r": np.array([2, 1])}),
    "Pad of rows": _one("Pad", "x p", constants={"p": np.array([1, 0, 0, 0])}),
    "Expand of rows": _one("Expand", "x s", constants={"s": np.array([3, 4])}),
    "Resize along rows": _one("Resize", "x _ f", constants={"f": [2.0, 1.0]}),
    "Resize by how many rows there are": _several(
        node("Shape", "x", "s"),
        node("Slice", "s zero one zero", "n"),
        node("Div", "n eight", "m"),
        node("Add", "m one", "k"),
        node("Cast", "k", "f", to=FLOAT),
        node("Concat", "same f", "scales", axis=0),
        node("Resize", "x scales"),
        constants={"zero": [0], "one": [1], "eight": [8], "same": [1.0]},
        opset=10,
    ),
    "Resize that interpolates rows": _one("Resize", "x _ f", mode="linear", constants={"f": [1.0, 2.0]}),
    "Trilu of rows": _one("Trilu"),
    "EyeLike of rows": _one("EyeLike"),
    "ReverseSequence along rows": _one(
        "ReverseSequence", "x l", batch_axis=1, time_axis=0, takes={"x": (FLOAT, ["n", 4]), "l": (INT64, [4])}
    ),
    "a constant of three rows": _one("Add", "x c", constants={"c": np.ones((3, 4)) * 0.5}),
    "a constant of two rows, computed": _several(
        node("Expand", "c s", "e"), node("Add", "x e"), constants={"c": [1.0], "s": np.array([2, 4])}
    ),
    "MaxPool's places": _several(node("MaxPool", "x", "p y", kernel_shape=[2, 2]), rank=4, element=INT64, takes=IMAGE),
    "MaxPool of fewer windows than ONNX counts": _several(
        node("MaxPool", "x", "p", kernel_shape=[1], strides=[2], ceil_mode=1),  # of 8, 5 by ONNX, 4 by ONNX Runtime
        node("Reshape", "p s"),
        constants={"s": np.array([-1, 5])},
        takes={"x": (FLOAT, ["n", 1, 8])},
    ),
    "Conv with rows as channels": _one(
        "Conv", "x w", rank=3, constants={"w": np.ones((2, 1, 3)) * 0.5}, takes={"x": (FLOAT, [1, "n", 8])}
    ),
    "Conv along rows": _one(
        "Conv", "x w", rank=3, constants={"w": np.ones((1, 1, 1)) * 0.5}, takes={"x": (FLOAT, [1, 1, "n"])}
    ),
    "Conv with rows as weights": _one(
        "Conv", "p x", rank=3, constants={"p": np.ones((1, 2, 5)) * 0.5}, takes={"x": (FLOAT, ["n", 2, 3])}
    ),
    "Det": _one("Det", rank=0, takes={"x": (FLOAT, ["n", "n"])}),
    "TfIdfVectorizer of all": _one(
        "TfIdfVectorizer",
        rank=1,
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1],
        pool_int64s=[1, 2],
        takes={"x": (INT64, ["n"])},
    ),
    "StringSplit": _several(
        node("StringSplit", "x", "y z", delimiter=" "), element=STRING, takes={"x": (STRING, ["n"])}, opset=20
    ),
    "a shape of values": _several(
        node("NonZero", "x", "i"),
        node("Shape", "i", "s"),
        node("Cast", "s", "f", to=FLOAT),
        node("ReduceSum", "f", "sum", keepdims=0),
        node("Add", "x sum"),
    ),
    "its size as an answer": _one("Shape", rank=1, element=INT64),
    "the sum of rows added to each": _several(
        node("ReduceSum", "x axes", "s"), node("Add", "x s"), constants={"axes": np.array([0])}
    ),
}
"""Models that must not be batched, by description."""
