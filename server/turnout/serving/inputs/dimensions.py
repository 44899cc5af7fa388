"""Dimensions of inputs: their names and sizes, and which tensors of a graph follow from them. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from turnout.registry.manifest.signature import TensorSpec
from turnout.registry.onnx.graph import Graph

InputDimension = tuple[str, int]
"""A dimension of an input: name and axis."""


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Sizes that a free dimension may have.

    Attributes:
        min: Smallest size.
        opt: Usual size.
        max: Largest size.
    """

    min: int
    opt: int
    max: int


def free_dimensions(spec: TensorSpec) -> Iterator[tuple[int, str]]:
    """Yields the axis and the name of each free dimension of an input; one without a name is called INPUT.AXIS."""
    for axis, size in enumerate(spec.shape):
        if not isinstance(size, int):
            yield axis, size or f"{spec.name}.{axis}"


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
