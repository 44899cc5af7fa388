"""Finds dimensions of inputs that must be 0 together: those of tensors that are added or concatenated. Pure.

ONNX Runtime fuses an `Add` with a following `LayerNormalization` (or its parts) if the sizes of both addends have the
same names. The fused operator divides by the size of the second addend, which ends the process if it is 0. `Concat`
skips an empty part but counts its columns, and leaves old memory in their place: values of other requests. Such
requests must therefore not be run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from turnout.registry.manifest.signature import Signature
from turnout.registry.onnx.graph import STANDARD_DOMAIN, Graph, ModelGraph, Node
from turnout.serving.batching.batchability import likely_axes
from turnout.serving.inputs.dimensions import InputDimension, computed_from, dimensions_named
from turnout.serving.rowwise.proof import follow
from turnout.serving.rowwise.states import Rows

_JOINS = frozenset({"Add", "Concat", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
"""Operators of ONNX's domain or `com.microsoft` that assume their inputs to be equal in size."""


def in_step(model: ModelGraph, signature: Signature) -> Sequence[Sequence[InputDimension]]:
    """Returns groups of dimensions of inputs that must be 0 together or not at all.

    They are found by their names and by following rows. The graph need not keep rows apart as a whole: it is enough if
    they can be followed to a `Concat`.
    """
    graph, sources = model.graph, computed_from(model.graph)
    joined: dict[str, frozenset[str]] = {}
    found: list[Sequence[InputDimension]] = []
    for node in graph.nodes:
        output = next(filter(None, node.outputs), "")
        if node.op_type not in _JOINS or len(sources.get(output, ())) < 2:
            continue
        if (node.domain, node.op_type) == (STANDARD_DOMAIN, "Concat"):
            joined[output] = sources[output]
        found += (group for group in _of_names(node, graph) if len(group) > 1 and group not in found)
    if not joined:
        return found
    cut = replace(model, graph=replace(graph, outputs=tuple(joined)))
    for axes in likely_axes(signature):
        for name, state in follow(cut, signature, axes).items():
            group = [(source, axes[source]) for source in sorted(joined[name]) if source in axes]
            if isinstance(state, Rows) and len(group) > 1 and group not in found:
                found.append(group)
    return found


def _of_names(node: Node, graph: Graph) -> Iterator[Sequence[InputDimension]]:
    """Yields the groups that follow from the names of dimensions."""
    types = {**graph.inputs, **graph.types}
    parts = node.inputs if node.op_type == "Concat" else node.inputs[:2]
    shapes = [shape for name in parts if name in types and (shape := types[name].shape) is not None]
    axis = node.attributes.get("axis")
    for at in range(min(map(len, shapes), default=0)):
        names = {shape[at] for shape in shapes if isinstance(shape[at], str)}
        if node.op_type == "Concat":
            agree = len(names) > 1 and isinstance(axis, int) and at != axis % len(shapes[0])
        else:  # dimensions that may be broadcast have different names
            agree = len(names) == 1 and len({len(shape) for shape in shapes}) == 1
        if agree:
            yield sorted(dimensions_named(graph, names))
