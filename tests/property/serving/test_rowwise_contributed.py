"""Operators of ONNX Runtime and of classical machine learning: proved, and answered row by row."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto

from onnx_models import Dim
from rowwise_models import FLOAT, INT32, INT64, UINT8, Make, graph, node
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.onnx.graph import TensorType
from turnout.registry.onnx.graph_reader import describe
from turnout.serving.rowwise.proof import prove_rows

FUSED = {"": 18, "com.microsoft": 1}
CLASSICAL = {"": 18, "ai.onnx.ml": 3}
Takes = Mapping[str, tuple[int, Sequence[Dim]]]
HIDDEN: Takes = {"x": (FLOAT, ["n", "t", 8])}
MASKED: Takes = {**HIDDEN, "m": (INT32, ["n", "t"])}
IDS: Takes = {"i": (INT32, ["n", 6])}
TABLE: Takes = {"x": (FLOAT, ["n", 4])}
IMAGES: Takes = {"x": (FLOAT, ["n", 2, 6, 6])}
WEIGHTS = np.random.default_rng(0).standard_normal(400)


def _weights(*shape: int) -> Any:
    return WEIGHTS[: int(np.prod(shape))].reshape(shape)


QKV = {"w": _weights(8, 24), "b": _weights(24)}
EMBEDDING = {"w": _weights(20, 8), "p": _weights(9, 8), "g": _weights(8), "b": _weights(8)}


def fused(operator: str, inputs: str, takes: Takes, constants: Mapping[str, Any] | None = None, **more: Any) -> Make:
    outputs = more.pop("outputs", {"y": (FLOAT, 3)})
    made = node(operator, inputs, " ".join(outputs), domain="com.microsoft", **more)
    return lambda: graph([made], takes, outputs, constants, FUSED)


def classical(operator: str, outputs: Mapping[str, tuple[int, int]] | None = None, **attributes: Any) -> Make:
    outputs = outputs or {"y": (FLOAT, 2)}
    made = node(operator, "x", " ".join(outputs), domain="ai.onnx.ml", **attributes)
    return lambda: graph([made], TABLE, outputs, None, CLASSICAL)


def _integers() -> ModelProto:
    constants = {
        "w": np.arange(20, dtype=np.uint8).reshape(4, 5),
        "s": [0.5],
        "v": [0.25],
        "z": np.array([1], np.uint8),
    }
    nodes = [node("Cast", "x", "q", to=UINT8), node("MatMulIntegerToFloat", "q w s v z", domain="com.microsoft")]
    return graph(nodes, TABLE, {"y": (FLOAT, 2)}, constants, FUSED)


TREE = {
    "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
    "nodes_values": [0.1, 0.0, 0.0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0], "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0],
    "target_weights": [1.0, 2.0], "n_targets": 1,
}  # fmt: skip
TWO = {"coefficients": [1.0, 2, 3, 4, 0.5, 0.5, 0.5, 0.5], "intercepts": [0.0, 1.0]}
MODELS: Mapping[str, Callable[[], ModelProto]] = {
    "Attention": fused("Attention", "x w b", HIDDEN, QKV, num_heads=2),
    "Attention with a mask": fused("Attention", "x w b m", MASKED, QKV, num_heads=2),
    "MultiHeadAttention": fused("MultiHeadAttention", "x x x", HIDDEN, num_heads=2),
    "MultiHeadAttention with a mask": fused("MultiHeadAttention", "x x x b m", MASKED, {"b": QKV["b"]}, num_heads=2),
    "SkipLayerNormalization": fused("SkipLayerNormalization", "x x g b", HIDDEN, {"g": _weights(8), "b": _weights(8)}),
    "SkipSimplified": fused("SkipSimplifiedLayerNormalization", "x x g", HIDDEN, {"g": _weights(8)}),
    "FusedMatMul": fused("FusedMatMul", "x w", HIDDEN, {"w": _weights(5, 8)}, transB=1),
    "FusedMatMul turned": fused("FusedMatMul", "x w", {"x": (FLOAT, ["n", 3, 8])}, {"w": _weights(3, 5)}, transA=1),
    "FastGelu": fused("FastGelu", "x b", HIDDEN, {"b": _weights(8)}),
    "BiasGelu": fused("BiasGelu", "x b", HIDDEN, {"b": _weights(8)}),
    "QuickGelu": fused("QuickGelu", "x", HIDDEN),
    "EmbedLayerNormalization": fused(
        "EmbedLayerNormalization", "i _ w p _ g b", IDS, EMBEDDING, outputs={"y": (FLOAT, 3), "m": (INT32, 1)}
    ),
    "FusedConv": fused(
        "FusedConv", "x w", IMAGES, {"w": _weights(3, 2, 3, 3)}, outputs={"y": (FLOAT, 4)}, activation="Relu"
    ),
    "Inverse": fused("Inverse", "x", {"x": (FLOAT, ["n", 4, 4])}),
    "MatMulIntegerToFloat": _integers,
    "Scaler": classical("Scaler", offset=[1.0, 2, 3, 4], scale=[0.5] * 4),
    "Normalizer": classical("Normalizer", norm="L2"),
    "Normalizer by the largest": classical("Normalizer", norm="MAX"),
    "Imputer": classical("Imputer", imputed_value_floats=[1.0, 2, 3, 4], replaced_value_float=float("nan")),
    "LinearRegressor": classical("LinearRegressor", targets=2, **TWO),
    "LinearClassifier": classical(
        "LinearClassifier", {"y": (INT64, 1), "p": (FLOAT, 2)}, classlabels_ints=[0, 1], post_transform="SOFTMAX", **TWO
    ),
    "TreeEnsembleRegressor": classical("TreeEnsembleRegressor", **TREE),
    "Binarizer": classical("Binarizer", threshold=0.2),
}


def _signature(types: Mapping[str, TensorType]) -> Signature:
    return Signature(tuple(TensorSpec(n, DataType(t.element), t.shape or ()) for n, t in types.items()), ())


@pytest.mark.parametrize("kind", MODELS)
def test_rows_are_answered_alone_as_together(kind: str):
    proto = MODELS[kind]()
    described = describe(proto)
    signature = _signature(described.graph.inputs)
    proof = prove_rows(described, signature, dict.fromkeys(described.graph.inputs, 0))
    assert proof.output_axes == dict.fromkeys(described.graph.outputs, 0), proof.obstacle
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    for split in ((1, 1), (2, 1), (1, 3)):
        requests = []
        for rows in split:
            shapes = {s.name: [rows, *(d if isinstance(d, int) else 5 for d in s.shape[1:])] for s in signature.inputs}
            requests.append(
                {
                    s.name: random.standard_normal(shapes[s.name]).astype(np.float32)
                    if s.dtype is DataType.FLOAT32
                    else random.integers(0, 2, shapes[s.name]).astype(np.int32)
                    for s in signature.inputs
                }
            )
        alone = [session.run(None, request) for request in requests]
        together = session.run(None, {name: np.concatenate([r[name] for r in requests]) for name in requests[0]})
        for joined, *singles in zip(together, *alone, strict=True):
            np.testing.assert_allclose(joined, np.concatenate(singles), rtol=1e-3, atol=1e-4)
