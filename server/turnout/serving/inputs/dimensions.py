"""Dimensions of a model's inputs: their names and sizes. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from turnout.registry.manifest.signature import TensorSpec
from turnout.registry.onnx.graph import TensorType

InputDimension = tuple[str, int]
"""A dimension of an input: name and axis."""


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Sizes that a free dimension may have: the smallest, the usual and the largest."""

    min: int
    opt: int
    max: int


def free_dimensions(spec: TensorSpec) -> Iterator[tuple[int, str]]:
    """Yields the axis and the name of each free dimension of an input; one without a name is called INPUT.AXIS."""
    for axis, size in enumerate(spec.shape):
        if not isinstance(size, int):
            yield axis, size or f"{spec.name}.{axis}"


def dimensions_named(inputs: Mapping[str, TensorType], names: Collection[object]) -> Iterator[InputDimension]:
    """Yields the dimensions of inputs whose sizes have one of these names."""
    for name, kind in inputs.items():
        for axis, size in enumerate(kind.shape or ()):
            if size in names:
                yield name, axis
