"""Traces tensors and dimensions of a graph back to the model's inputs. Pure."""

from collections.abc import Collection, Iterator, Mapping

from turnout.registry.onnx.graph import Graph

InputDimension = tuple[str, int]
"""A dimension of an input: name and axis."""


def computed_from(graph: Graph) -> Mapping[str, frozenset[str]]:
    """Returns the inputs that each tensor is computed from, by the tensor's name. Initialisers are no inputs."""
    found = {name: frozenset([name]) for name in graph.inputs if name not in graph.initializers}
    for node in graph.nodes:
        sources = frozenset[str]().union(*(found.get(name, frozenset()) for name in node.inputs))
        found.update((name, sources) for name in node.outputs if name)
    return found


def dimensions_named(graph: Graph, names: Collection[object]) -> Iterator[InputDimension]:
    """Yields the dimensions of inputs whose sizes have one of these names."""
    for name, kind in graph.inputs.items():
        for axis, size in enumerate(kind.shape or ()):
            if size in names:
                yield name, axis
