"""Finds dimensions of a model's inputs. Pure."""

from collections.abc import Collection, Iterator, Mapping

from turnout.registry.onnx.graph import TensorType

InputDimension = tuple[str, int]
"""A dimension of an input: name and axis."""


def dimensions_named(inputs: Mapping[str, TensorType], names: Collection[object]) -> Iterator[InputDimension]:
    """Yields the dimensions of inputs whose sizes have one of these names."""
    for name, kind in inputs.items():
        for axis, size in enumerate(kind.shape or ()):
            if size in names:
                yield name, axis
