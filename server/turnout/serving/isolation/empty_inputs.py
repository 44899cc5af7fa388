"""Finds the dimensions of inputs that must not be 0, since an operator would return old contents of memory. Pure.

`RoiAlign` uses the nearest row of an image for positions outside it. In an image without rows that is memory of
something else, such as other requests. A matrix product over a dimension of 0 is 0, but integer kernels, and the
fusion of a `MatMul` with a preceding `Transpose`, leave their output uninitialised. `Concat` leaves a part
uninitialised that is empty along another axis than the one that it joins.
"""

from collections.abc import Collection, Mapping

from turnout.registry.onnx.graph import STANDARD_DOMAIN, Graph, ModelGraph, Node
from turnout.serving.inputs.dimensions import InputDimension, computed_from, dimensions_named
from turnout.serving.isolation.origins import Scope, positive

Dimensions = frozenset[InputDimension]

_FACTORS: Mapping[tuple[str, str], tuple[int, int]] = {
    (STANDARD_DOMAIN, "MatMul"): (0, 1),
    (STANDARD_DOMAIN, "MatMulInteger"): (0, 1),
    (STANDARD_DOMAIN, "QLinearMatMul"): (0, 3),
    ("com.microsoft", "FusedMatMul"): (0, 1),
    ("com.microsoft", "MatMulInteger16"): (0, 1),
    ("com.microsoft", "MatMulIntegerToFloat"): (0, 1),
    ("com.microsoft", "DynamicQuantizeMatMul"): (0, 1),
    ("com.microsoft", "QGemm"): (0, 3),
}
"""Matrix products, with the indices of both factors among the inputs."""


def never_empty(model: ModelGraph) -> Dimensions:
    """Returns the dimensions of inputs that must not be 0.

    A tensor can be empty only if it is computed from inputs. A convolution fails on an empty image, so images computed
    from its output are never empty.
    """
    graph, scope = model.graph, Scope(model.graph, overridable=False)
    sources = computed_from(graph)
    turned: set[str] = set()
    found: Dimensions = frozenset()
    for node in graph.nodes:
        if (node.domain, node.op_type) == (STANDARD_DOMAIN, "RoiAlign"):
            found |= _of_picture(node, scope, sources)
        elif (factors := _FACTORS.get((node.domain, node.op_type))) is not None:
            one, other = (node.inputs[index] for index in factors)
            plain = node.op_type == "MatMul" and not turned & {one, other}
            if not plain and sources.get(one) and sources.get(other):
                found |= {*dimensions_named(graph, _summed(node, one, other, scope))}
        elif (node.domain, node.op_type) == (STANDARD_DOMAIN, "Concat"):
            found |= _beside_others(node, graph, scope)
        elif node.op_type == "Transpose" and _turns(node):
            turned.update(node.outputs)
        scope.follow_sizes(node)
    return found


def _of_picture(node: Node, scope: Scope, sources: Mapping[str, frozenset[str]]) -> Dimensions:
    picture = node.inputs[0]
    shape = scope.type_of(picture).shape
    if scope.is_picture(picture) or (shape and all(map(positive, shape[2:]))):
        return frozenset()
    made_of = sources.get(picture, frozenset())
    return frozenset((name, axis) for name in made_of for axis in range(len(scope.type_of(name).shape or ())))


def _beside_others(node: Node, graph: Graph, scope: Scope) -> Dimensions:
    """Returns the dimensions of inputs that must match a part of a `Concat` whose size is known not to be 0."""
    shapes = [shape for name in node.inputs if (shape := scope.type_of(name).shape)]
    axis, found = node.attributes.get("axis"), Dimensions()
    for at in range(min(map(len, shapes), default=0)):
        sizes = [shape[at] for shape in shapes]
        if isinstance(axis, int) and at != axis % len(shapes[0]) and any(map(positive, sizes)):
            found |= {*dimensions_named(graph, {size for size in sizes if isinstance(size, str)})}
    return found


def _turns(node: Node) -> bool:
    """Returns whether a `Transpose` is fused: it moves the last axis, or makes the first axis the last but one."""
    order = node.attributes.get("perm")
    if not isinstance(order, tuple):
        return True
    return order[-1] != len(order) - 1 or order[-2:-1] == (0,)


def _summed(node: Node, one: str, other: str, scope: Scope) -> Collection[str]:
    """Returns the name of the dimension that a product sums over; nothing if it is known not to be 0 or has no name."""
    left, right = scope.type_of(one).shape, scope.type_of(other).shape
    sizes = []
    if left:
        sizes.append(left[-2] if node.attributes.get("transA") and len(left) > 1 else left[-1])
    if right:
        sizes.append(right[-1] if node.attributes.get("transB") or len(right) < 2 else right[-2])
    if any(map(positive, sizes)):
        return ()
    return [size for size in sizes if isinstance(size, str)][:1]
