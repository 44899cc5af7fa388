"""Finds the dimensions of inputs that must not be 0, at all or unless others are. Pure.

Requests that violate this are refused, since operators would return old contents of memory, or end the process:

- `RoiAlign` uses the nearest row of an image for positions outside it. In an image without rows that is memory of
  something else, such as other requests.
- A matrix product over a dimension of 0 is 0, but integer kernels, `FusedMatMul`, and the fusion of a product with a
  preceding `DequantizeLinear` leave their output uninitialised. (The fusion with a `Transpose` is switched off, see
  `turnout.serving.sessions.session`.)
- `Concat` and similar operators skip a part that is empty along another axis than the one that they join, but leave
  room for it, uninitialised.
- ONNX Runtime fuses an `Add` with a following `LayerNormalization` (or its parts) if the sizes of both addends have the
  same names. The fused operator divides by the size of the second addend, which ends the process if it is 0.
"""

from collections.abc import Iterator, Mapping, Sequence

from turnout.registry.manifest.signature import Dimension, Signature
from turnout.registry.onnx.graph import MICROSOFT_DOMAIN, STANDARD_DOMAIN, ModelGraph, Node, TensorType
from turnout.serving.batching.batchability import likely_axes
from turnout.serving.inputs.dimensions import InputDimension, dimensions_named
from turnout.serving.isolation.origins import Scope, positive, walk
from turnout.serving.rowwise.proof import follow_everywhere
from turnout.serving.rowwise.states import Rows

Dimensions = frozenset[InputDimension]

_FACTORS: Mapping[tuple[str, str], tuple[int, int]] = {
    (STANDARD_DOMAIN, "Gemm"): (0, 1),
    (STANDARD_DOMAIN, "MatMul"): (0, 1),
    (STANDARD_DOMAIN, "MatMulInteger"): (0, 1),
    (STANDARD_DOMAIN, "QLinearMatMul"): (0, 3),
    (MICROSOFT_DOMAIN, "FusedMatMul"): (0, 1),
    (MICROSOFT_DOMAIN, "MatMulInteger16"): (0, 1),
    (MICROSOFT_DOMAIN, "MatMulIntegerToFloat"): (0, 1),
    (MICROSOFT_DOMAIN, "DynamicQuantizeMatMul"): (0, 1),
    (MICROSOFT_DOMAIN, "QGemm"): (0, 3),
}
"""Matrix products, with the indices of both factors among the inputs."""

_ENDS_A_FUSION = frozenset({"Conv", "Einsum", "Flatten", "Reshape", *(name for _, name in _FACTORS)})
"""Operators that a preceding `DequantizeLinear` is not moved past. ONNX Runtime drops or moves many others that lie
between it and a product, such as `Cast`, `Identity` and `Mul` by a constant, and then fuses both."""


_ADDS = frozenset({"Add", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
"""Operators of ONNX's domain or `com.microsoft` that assume their first two inputs to be equal in size."""


def never_empty(model: ModelGraph) -> Dimensions:
    """Returns the dimensions of inputs that must not be 0.

    A tensor can be empty only if it is computed from inputs. A convolution fails on an empty image, so images computed
    from its output are never empty.
    """
    inputs = model.graph.inputs
    quantized: set[str] = set()
    found: Dimensions = frozenset()
    for node, scope in walk(model):
        if (operator := node.operator) == (STANDARD_DOMAIN, "RoiAlign"):
            found |= _of_picture(node, scope, inputs)
        elif (factors := _FACTORS.get(operator)) is not None:
            one, other = (node.inputs[index] for index in factors)
            plain = node.op_type in ("Gemm", "MatMul") and quantized.isdisjoint((one, other))
            if not plain and scope.sources[one] and scope.sources[other]:
                found |= _summed(node, one, other, scope, inputs)
        found |= _beside_others(node, scope, inputs)
        goes_on = node.op_type not in _ENDS_A_FUSION and not quantized.isdisjoint(node.names_read())
        if node.op_type == "DequantizeLinear" or goes_on:
            quantized.update(node.outputs)
    return found


def _of_picture(node: Node, scope: Scope, inputs: Mapping[str, TensorType]) -> Dimensions:
    picture = node.inputs[0]
    if scope.is_filled_picture(picture):
        return frozenset()
    return frozenset((name, axis) for name in scope.sources[picture] for axis in range(len(inputs[name].shape or ())))


def _beside_others(node: Node, scope: Scope, inputs: Mapping[str, TensorType]) -> Dimensions:
    """Returns the dimensions of inputs that must match a joined part whose size is known not to be 0."""
    found = Dimensions()
    for sizes in _beside(node, scope):
        if any(map(positive, sizes)):
            found |= {*dimensions_named(inputs, {size for size in sizes if isinstance(size, str)})}
    return found


def _summed(node: Node, one: str, other: str, scope: Scope, inputs: Mapping[str, TensorType]) -> Dimensions:
    """Returns the dimensions of inputs that a product sums over, or may sum over if that is not known."""
    left, right = scope.types[one].shape, scope.types[other].shape
    sizes, beside = [], list[object]()
    for shape, last in (
        (left, not node.attributes.get("transA")),
        (right, bool(node.attributes.get("transB")) or len(right or ()) < 2),
    ):
        if shape:
            at = len(shape) - (1 if last or len(shape) < 2 else 2)
            sizes.append(shape[at])
            beside += shape[:at] + shape[at + 1 :]
    if any(map(positive, sizes)):
        return frozenset()
    if named := frozenset(dimensions_named(inputs, [size for size in sizes if isinstance(size, str)])):
        return named
    # If another dimension of a factor is 0, so is one of the product, in which nothing can be read.
    free = scope.sources[one] | scope.sources[other]
    return frozenset(
        (name, axis)
        for name in free
        for axis, size in enumerate(inputs[name].shape or ())
        if not isinstance(size, int) and size not in beside
    )


def in_step(model: ModelGraph, signature: Signature) -> Sequence[Sequence[InputDimension]]:
    """Returns groups of dimensions of inputs that must be 0 together or not at all.

    They are found by their names and by following rows. The graph need not keep rows apart as a whole: it is enough if
    they can be followed to a `Concat`.
    """
    joined: dict[Node, frozenset[str]] = {}
    found: list[Sequence[InputDimension]] = []
    for node, scope in walk(model):
        parts = scope.joined(node) or (node.inputs[:2] if node.op_type in _ADDS else ())
        sources = frozenset[str]().union(*map(scope.sources.__getitem__, parts))
        if len(sources) < 2:
            continue
        if node.operator == (STANDARD_DOMAIN, "Concat"):
            joined[node] = sources
        groups = (sorted(dimensions_named(model.graph.inputs, names)) for names in _equal_names(node, scope))
        found += (group for group in groups if len(group) > 1 and group not in found)
    if not joined:
        return found
    for axes in likely_axes(signature):
        states = follow_everywhere(model, signature, axes)
        for node, sources in joined.items():
            group = [(source, axes[source]) for source in sorted(sources) if source in axes]
            if any(isinstance(state, Rows) for state in states.get(node, ())) and len(group) > 1 and group not in found:
                found.append(group)
    return found


def _equal_names(node: Node, scope: Scope) -> Iterator[set[Dimension]]:
    """Yields the names of dimensions that the node assumes to be equal."""
    if node.op_type in _ADDS:  # dimensions that may be broadcast have different names
        shapes = [shape for name in node.inputs[:2] if (shape := scope.types[name].shape) is not None]
        same_rank = len(set(map(len, shapes))) == 1
        dimensions = zip(*shapes, strict=True) if same_rank else iter(())
    else:
        dimensions = _beside(node, scope)
    for sizes in dimensions:
        names: set[Dimension] = {size for size in sizes if isinstance(size, str)}
        if (len(names) == 1) == (node.op_type in _ADDS) and names:
            yield names


def _beside(node: Node, scope: Scope) -> Iterator[tuple[Dimension, ...]]:
    """Yields the sizes of the tensors that a node joins, along one axis after another, but not the one that it joins.

    Tensors of unknown rank are left out. An axis that is not known may be any, so that nothing is yielded.
    """
    shapes = [shape for name in scope.joined(node) if (shape := scope.types[name].shape)]
    axis = node.attributes.get("axis")
    if not node.attributes.get("new_axis"):
        if not isinstance(axis, int):
            return iter(())
        shapes = [tuple(size for at, size in enumerate(shape) if at != axis % len(shape)) for shape in shapes]
    return zip(*shapes, strict=False)
