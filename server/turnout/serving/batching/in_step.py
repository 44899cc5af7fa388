"""Finds dimensions of inputs that must be 0 together: those of tensors that are added or concatenated. Pure.

ONNX Runtime fuses an `Add` with a following `LayerNormalization` (or its parts) if the sizes of both addends have the
same names. The fused operator divides by the size of the second addend, which ends the process if it is 0. `Concat`
skips an empty part but counts its columns, and leaves old memory in their place: values of other requests. Such
requests must therefore not be run.
"""

from collections.abc import Iterator, Sequence

from turnout.registry.manifest.signature import Signature
from turnout.registry.onnx.graph import STANDARD_DOMAIN, Graph, ModelGraph, Node
from turnout.serving.batching.batchability import likely_axes
from turnout.serving.inputs.dimensions import InputDimension, dimensions_named
from turnout.serving.isolation.origins import Scope, walk
from turnout.serving.rowwise.proof import follow_everywhere
from turnout.serving.rowwise.states import Rows

_JOINS = frozenset({"Add", "Concat", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
"""Operators of ONNX's domain or `com.microsoft` that assume their inputs to be equal in size."""


def in_step(model: ModelGraph, signature: Signature) -> Sequence[Sequence[InputDimension]]:
    """Returns groups of dimensions of inputs that must be 0 together or not at all.

    They are found by their names and by following rows. The graph need not keep rows apart as a whole: it is enough if
    they can be followed to a `Concat`.
    """
    joined: dict[Node, frozenset[str]] = {}
    found: list[Sequence[InputDimension]] = []
    for node, scope in walk(model):
        sources = frozenset[str]().union(*map(scope.sources, node.inputs))
        if node.op_type not in _JOINS or len(sources) < 2:
            continue
        if node.operator == (STANDARD_DOMAIN, "Concat"):
            joined[node] = sources
        found += (group for group in _of_names(node, scope, model.graph) if len(group) > 1 and group not in found)
    if not joined:
        return found
    for axes in likely_axes(signature):
        states = follow_everywhere(model, signature, axes)
        for node, sources in joined.items():
            group = [(source, axes[source]) for source in sorted(sources) if source in axes]
            if any(isinstance(state, Rows) for state in states.get(node, ())) and len(group) > 1 and group not in found:
                found.append(group)
    return found


def _of_names(node: Node, scope: Scope, graph: Graph) -> Iterator[Sequence[InputDimension]]:
    """Yields the groups that follow from the names of dimensions."""
    parts = node.inputs if node.op_type == "Concat" else node.inputs[:2]
    shapes = [shape for name in parts if (shape := scope.type_of(name).shape) is not None]
    axis = node.attributes.get("axis")
    for at in range(min(map(len, shapes), default=0)):
        names = {shape[at] for shape in shapes if isinstance(shape[at], str)}
        if node.op_type == "Concat":
            agree = len(names) > 1 and isinstance(axis, int) and at != axis % len(shapes[0])
        else:  # dimensions that may be broadcast have different names
            agree = len(names) == 1 and len({len(shape) for shape in shapes}) == 1
        if agree:
            yield sorted(dimensions_named(graph.inputs, names))
