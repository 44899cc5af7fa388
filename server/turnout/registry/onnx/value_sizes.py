"""Determines whether input values can become tensor sizes, so that a small input could use any amount of memory.

Without side effects. `Pad`, `Resize`, `Tile` and similar operators create a tensor whose size depends on another
tensor's values. If those values come from an input, nothing in the signature limits memory. The shapes of inputs are
not a problem, since they are visible.
"""

from collections.abc import Collection, Iterable, Mapping

from turnout.registry.onnx.graph import CLASSICAL_DOMAIN, MICROSOFT_DOMAIN, STANDARD_DOMAIN, Graph, Node

SIZED_BY_VALUES: Mapping[str, tuple[int, ...] | None] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "ImageDecoder": None,
    "Loop": None,
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),  # those that exist: scales came second before operator set 11
    "STFT": (1, 3),
    "Scan": None,
    "SequenceMap": None,
    "Tile": (1, 2),
    "Upsample": (1,),
}
"""Standard operators whose output may be larger than their inputs, with the inputs that determine its size; None for
operators with a body that runs as often as values determine. Operators with at most as many elements in their output as
in their inputs (`Reshape`, `Compress`, `NonZero`, `TopK`) are not included, nor are those whose output size follows
from shapes alone (`MatMul`, `Conv`)."""

_SIZED_BY_SHAPES: Mapping[str, frozenset[str] | None] = {
    CLASSICAL_DOMAIN: None,
    "com.microsoft.nchwc": None,
    MICROSOFT_DOMAIN: frozenset(
        {
            "Attention", "BiasAdd", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "DequantizeLinear",
            "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "EmbedLayerNormalization", "FastGelu", "FusedConv",
            "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gelu", "MatMulInteger16", "MatMulIntegerToFloat",
            "MatMulNBits", "MultiHeadAttention", "NhwcConv", "NhwcFusedConv", "NhwcMaxPool", "QAttention",
            "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv",
            "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid",
            "QLinearSoftmax", "QLinearWhere", "QuantizeLinear", "QuickGelu", "SimplifiedLayerNormalization",
            "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "TransposeMatMul",
        }
    ),
}  # fmt: skip
"""Other operators whose output size is determined by shapes and attributes, by domain; None for all of a domain. ONNX
Runtime's optimisers insert them, and classical models use them."""

_GIVE_SHAPES = frozenset({"Shape", "Size"})
"""Operators whose output depends on the shape of their input, not on its values."""


def values_become_sizes(graph: Graph, given: Collection[str]) -> bool:
    """Returns whether a value of one of the inputs in `given` may determine the size of a tensor; True if unknown."""
    return _reach_a_size(graph.nodes, set(given))


def _reach_a_size(nodes: Iterable[Node], follow: set[str]) -> bool:
    """Propagates values through nodes, which are in an order in which they can run.

    Adds to `follow`, the tensors whose values depend on values of inputs.
    """
    for node in nodes:
        follows = [name in follow for name in node.inputs]
        inner = list(node.inner_graphs())
        if node.domain != STANDARD_DOMAIN and not _is_sized_by_shapes(node):
            if any(follows):  # the operator is unknown
                return True
            continue
        if node.domain == STANDARD_DOMAIN and node.op_type in SIZED_BY_VALUES:
            places = SIZED_BY_VALUES[node.op_type]
            if places is None:
                sized = not follow.isdisjoint(node.names_read())
            else:
                sized = any(follows[place] for place in places if place < len(follows))
            if sized:
                return True
        for graph in inner:  # a body's inputs are its node's inputs, or values that it computed
            if not follow.isdisjoint(node.names_read()):
                follow |= graph.inputs.keys()
            if _reach_a_size(graph.nodes, follow):
                return True
        if node.op_type not in _GIVE_SHAPES and (any(follows) or any(follow & set(graph.outputs) for graph in inner)):
            follow |= {name for name in node.outputs if name}
    return False


def _is_sized_by_shapes(node: Node) -> bool:
    known = _SIZED_BY_SHAPES.get(node.domain, frozenset())
    return known is None or node.op_type in known
