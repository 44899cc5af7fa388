"""Classifiers as exported by skl2onnx 1.20 by default: labels, and scores as a map for each row, made by ZipMap."""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnx_models import IR_VERSION

ML = "ai.onnx.ml"


def classifier(
    labels: Sequence[str] | Sequence[int] = ("ant", "bee", "cat"),
    *,
    tail: Sequence[NodeProto] = (),
    rows: str | None = None,
) -> ModelProto:
    """Returns a logistic regression of four features, as `skl2onnx.to_onnx(LogisticRegression().fit(X, y), X)` does."""
    text = isinstance(labels[0], str)
    random = np.random.default_rng(0)
    key = "classlabels_strings" if text else "classlabels_int64s"
    nodes = [
        helper.make_node(
            "LinearClassifier", ["X"], ["label", "probability_tensor"], domain=ML, multi_class=1,
            coefficients=random.standard_normal(4 * len(labels)).tolist(),
            intercepts=random.standard_normal(len(labels)).tolist(), post_transform="SOFTMAX",
            **{"classlabels_strings" if text else "classlabels_ints": list(labels)},
        ),
        helper.make_node("Normalizer", ["probability_tensor"], ["probabilities"], domain=ML, norm="L1"),
        helper.make_node("Identity" if text else "Cast", ["label"], ["output_label"], **({} if text else {"to": 7})),
        helper.make_node("ZipMap", ["probabilities"], ["output_probability"], domain=ML, **{key: list(labels)}),
        *tail,
    ]  # fmt: skip
    element = TensorProto.STRING if text else TensorProto.INT64
    map_type = helper.make_map_type_proto(element, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [rows, 4])],
        [
            helper.make_tensor_value_info("output_label", element, [None]),
            helper.make_value_info("output_probability", helper.make_sequence_type_proto(map_type)),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)
