"""Small networks of common kinds, which must be batched."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from onnx_models import Dim
from rowwise_models import FLOAT, INT64, Make, Y, graph, node


def mlp() -> ModelProto:
    """Three layers with normalisation. float32 (n, 16) to (n, 4)."""
    random = np.random.default_rng(3)
    weights = {f"w{i}": random.standard_normal(s) * 0.3 for i, s in enumerate([(16, 32), (32, 32), (32, 4)])}
    biases = {f"b{i}": random.standard_normal(s) for i, s in enumerate([32, 32, 4])}
    nodes = [
        node("Gemm", "x w0 b0", "h0"), node("Relu", "h0", "a0"),
        node("Gemm", "a0 w1 b1", "h1"), node("LayerNormalization", "h1 scale", "n1"), node("Gelu", "n1", "a1"),
        node("Gemm", "a1 w2 b2", "h2"), node("Softmax", "h2"),
    ]  # fmt: skip
    return graph(nodes, {"x": (FLOAT, ["n", 16])}, Y, {**weights, **biases, "scale": [1.0] * 32}, 20)


def cnn() -> ModelProto:
    """Convolutions with a residual, pooling, Flatten, a classifier. float32 (n, 3, 16, 16) to (n, 5)."""
    random = np.random.default_rng(4)
    shapes = {"c0": (8, 3, 3, 3), "c1": (8, 8, 3, 3), "s": (8,), "b": (8,), "m": (8,), "d": (5, 512)}
    constants = {name: random.standard_normal(shape) * 0.3 for name, shape in shapes.items()} | {"v": [1.0] * 8}
    nodes = [
        node("Conv", "x c0", "h0", pads=[1, 1, 1, 1]), node("BatchNormalization", "h0 s b m v", "n0"),
        node("Relu", "n0", "r0"), node("MaxPool", "r0", "p0", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p0 c1", "h1", pads=[1, 1, 1, 1]), node("Add", "h1 p0", "a1"), node("Relu", "a1", "r1"),
        node("Flatten", "r1", "f"), node("Gemm", "f d", "z", transB=1), node("Softmax", "z", axis=1),
    ]  # fmt: skip
    return graph(nodes, {"x": (FLOAT, ["n", 3, 16, 16])}, Y, constants)


_WIDTH, _HEADS = 16, 2
_IDS: Mapping[str, tuple[int, Sequence[Dim]]] = {"ids": (INT64, ["n", "t"]), "mask": (INT64, ["n", "t"])}


def _encoder_weights() -> dict[str, Any]:
    random = np.random.default_rng(5)
    squares = {name: random.standard_normal((_WIDTH, _WIDTH)) * 0.3 for name in ("wq", "wk", "wv", "wo")}
    return squares | {
        "table": random.standard_normal((300, _WIDTH)), "up": random.standard_normal((_WIDTH, 32)) * 0.3,
        "down": random.standard_normal((32, _WIDTH)) * 0.3, "scale": [1.0] * _WIDTH, "lowest": -1e9, "one": 1.0,
        "root": (_WIDTH // _HEADS) ** 0.5, "maskaxes": np.array([1, 2]), "first": np.array(0),
    }  # fmt: skip


def _encoder(heads: Callable[[str], Sequence[NodeProto]], joined: Sequence[NodeProto]) -> list[NodeProto]:
    nodes = [
        node("Gather", "table ids", "e"), node("LayerNormalization", "e scale", "h"),
        node("Cast", "mask", "m", to=FLOAT), node("Unsqueeze", "m maskaxes", "m4"), node("Sub", "one m4", "off"),
        node("Mul", "off lowest", "penalty"),
    ]  # fmt: skip
    for name in "qkv":
        nodes += [node("MatMul", f"h w{name}", f"{name}0"), *heads(name)]
    return [
        *nodes, node("Transpose", "kh", "kt", perm=[0, 1, 3, 2]), node("MatMul", "qh kt", "s0"),
        node("Div", "s0 root", "s1"), node("Add", "s1 penalty", "s2"), node("Softmax", "s2", "p", axis=-1),
        node("MatMul", "p vh", "c0"), node("Transpose", "c0", "c1", perm=[0, 2, 1, 3]), *joined,
        node("MatMul", "c2 wo", "o"), node("Add", "h o", "r"), node("LayerNormalization", "r scale", "n"),
        node("MatMul", "n up", "u"), node("Gelu", "u", "g"), node("MatMul", "g down", "d"), node("Add", "n d", "f"),
        node("LayerNormalization", "f scale", "hidden"), node("Gather", "hidden first", "y", axis=1),
    ]  # fmt: skip


_ANSWERS = {"hidden": (FLOAT, 3), "y": (FLOAT, 2)}


def transformer() -> ModelProto:
    """One encoder block with a mask, written by hand: Reshape to (0, 0, heads, width). int64 ids, mask (n, t)."""
    constants = _encoder_weights() | {"split": np.array([0, 0, _HEADS, -1]), "merge": np.array([0, 0, _WIDTH])}

    def heads(name: str) -> list[NodeProto]:
        return [
            node("Reshape", f"{name}0 split", f"{name}1"),
            node("Transpose", f"{name}1", f"{name}h", perm=[0, 2, 1, 3]),
        ]

    return graph(_encoder(heads, [node("Reshape", "c1 merge", "c2")]), _IDS, _ANSWERS, constants, 20)


def exported_transformer() -> ModelProto:
    """The same as exported by PyTorch: Shape -> Gather -> Unsqueeze -> Concat -> Reshape, and folded linear layers."""
    constants = _encoder_weights() | {
        "zero": np.array(0), "single": np.array(1), "front": np.array([0]), "heads": np.array([_HEADS]),
        "depth": np.array([_WIDTH // _HEADS]), "width": np.array([_WIDTH]), "folded": np.array([-1, _WIDTH]),
    }  # fmt: skip

    def sizes(of: str, tag: str) -> list[NodeProto]:
        return [
            node("Shape", of, f"{tag}_size"),
            node("Gather", f"{tag}_size zero", f"{tag}_rows"),
            node("Gather", f"{tag}_size single", f"{tag}_length"),
            node("Unsqueeze", f"{tag}_rows front", f"{tag}_n"),
            node("Unsqueeze", f"{tag}_length front", f"{tag}_t"),
        ]

    def heads(name: str) -> list[NodeProto]:
        return [
            *sizes(f"{name}0", name),
            node("Concat", f"{name}_n {name}_t heads depth", f"{name}_shape", axis=0),
            node("Reshape", f"{name}0 {name}_shape", f"{name}1"),
            node("Transpose", f"{name}1", f"{name}h", perm=[0, 2, 1, 3]),
        ]

    joined = [
        *sizes("c1", "c"), node("Concat", "c_n c_t width", "cg", axis=0), node("Reshape", "c1 cg", "c1w"),
        node("Reshape", "c1w folded", "rows"), node("Reshape", "rows cg", "c2"),
    ]  # fmt: skip
    return graph(_encoder(heads, joined), _IDS, _ANSWERS, constants, 20)


KEEP: Mapping[str, Make] = {
    "MLP": mlp,
    "CNN": cnn,
    "transformer": transformer,
    "transformer as PyTorch exports it": exported_transformer,
}
"""Models that must be batched."""
