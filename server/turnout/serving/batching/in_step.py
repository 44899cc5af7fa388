"""Finds dimensions of inputs that must be 0 together: those of tensors that are added or concatenated. Pure.

ONNX Runtime fuses an `Add` with a following `LayerNormalization` (or its parts) if the sizes of both addends have the
same names. The fused operator divides by the size of the second addend, which ends the process if it is 0. `Concat`
skips an empty part but counts its columns, and leaves old memory in their place: values of other requests. Such
requests must therefore not be run.
"""

from collections.abc import Iterator, Sequence

from turnout.registry.manifest.signature import Dimension, Signature
from turnout.registry.onnx.graph import STANDARD_DOMAIN, ModelGraph, Node
from turnout.serving.batching.batchability import likely_axes
from turnout.serving.inputs.dimensions import InputDimension, dimensions_named
from turnout.serving.isolation.origins import Scope, joined_shapes, walk
from turnout.serving.rowwise.proof import follow_everywhere
from turnout.serving.rowwise.states import Rows

_ADDS = frozenset({"Add", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
"""Operators of ONNX's domain or `com.microsoft` that assume their first two inputs to be equal in size."""


def in_step(model: ModelGraph, signature: Signature) -> Sequence[Sequence[InputDimension]]:
    """Returns groups of dimensions of inputs that must be 0 together or not at all.

    They are found by their names and by following rows. The graph need not keep rows apart as a whole: it is enough if
    they can be followed to a `Concat`.
    """
    joined: dict[Node, frozenset[str]] = {}
    found: list[Sequence[InputDimension]] = []
    for node, scope in walk(model):
        parts = scope.joined(node) or (node.inputs[:2] if node.op_type in _ADDS else ())
        sources = frozenset[str]().union(*map(scope.sources, parts))
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
        shapes = [shape for name in node.inputs[:2] if (shape := scope.type_of(name).shape) is not None]
        same_rank = len(set(map(len, shapes))) == 1
        dimensions = zip(*shapes, strict=True) if same_rank else iter(())
    else:
        dimensions = zip(*joined_shapes(node, scope), strict=False)
    for sizes in dimensions:
        names: set[Dimension] = {size for size in sizes if isinstance(size, str)}
        if (len(names) == 1) == (node.op_type in _ADDS) and names:
            yield names
