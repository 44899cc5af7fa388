"""Which inputs have to have rows where others have: those whose rows a `Concat` puts beside each other. Pure.

ONNX Runtime passes over a part that is empty, but counts its columns, and leaves what was in memory in their place: the
values of other requests. So it must not be asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from turnout.registry.manifest.signature import Signature
from turnout.registry.onnx.graph import STANDARD_DOMAIN, ModelGraph
from turnout.serving.batching.batchability import likely_axes
from turnout.serving.rowwise.proof import follow
from turnout.serving.rowwise.states import Rows


def rows_in_step(model: ModelGraph, signature: Signature) -> Sequence[Mapping[str, int]]:
    """Returns groups of inputs, each with its batch axis, that have no rows together or not at all.

    The whole graph need not keep rows apart: it is enough that they get as far as a `Concat`.
    """
    made_of = {name: frozenset([name]) for name in model.graph.inputs}
    joined: dict[str, frozenset[str]] = {}
    for node in model.graph.nodes:
        sources = frozenset[str]().union(*(made_of.get(name, frozenset()) for name in node.inputs))
        made_of.update(dict.fromkeys(node.outputs, sources))
        if (node.domain, node.op_type) == (STANDARD_DOMAIN, "Concat") and len(sources) > 1:
            joined[node.outputs[0]] = sources
    if not joined:
        return ()
    found: list[Mapping[str, int]] = []
    cut = replace(model, graph=replace(model.graph, outputs=tuple(joined)))
    for axes in likely_axes(signature):
        for name, state in follow(cut, signature, axes).items():
            group = {source: axes[source] for source in sorted(joined[name]) if source in axes}
            if isinstance(state, Rows) and len(group) > 1 and group not in found:
                found.append(group)
    return found
