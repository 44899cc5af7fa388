"""Synthetic inputs for a signature, used for warm-up and to find out how a model batches."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.serving.inputs.dimensions import free_dimensions
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array

FREE_SIZES = (1, 8, 32, 128, 512)
"""Sizes tried for free dimensions, in order: 1 suits most graphs, convolutions over time need more."""

MOST_ELEMENTS = 1 << 24
"""Maximum number of elements in a set of synthetic inputs: a volume of 256 by 256 by 256."""

FEW_ELEMENTS = 1 << 16
"""A limit at which a model whose sizes follow from shapes takes little memory: an image of 147 by 147."""

_BYTES = (0, 256)
"""Range of integers, end exclusive. Bytes and token ids accept these values. A constant or nearly constant input would
be accepted more often, but drives normalizations to a point where only rounding is left."""
_BITS = (0, 2)
"""Range for small lookup tables, which accept only 0 and 1."""
_SIZES = (1, 3)
"""Range for values that may become sizes: neither empty nor large."""
_ZEROS = (0, 1)

_WORDS = np.array(["turnout", "points", "frog", "siding"], dtype=object)
_INTEGERS = frozenset(DataType) - {
    DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT32, DataType.FLOAT64, DataType.BOOL, DataType.STRING,
}  # fmt: skip
_FLOATS = {DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT32, DataType.FLOAT64}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How synthetic inputs are made.

    Attributes:
        free_size: Size of every free dimension except the batch axes and those in `sizes`.
        below: Upper bound of integers, exclusive.
        sizes: Sizes of free dimensions by name.
    """

    free_size: int
    lowest: int
    below: int
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        integers = f"{self.lowest} to {self.below - 1}" if self.lowest else f"below {self.below}"
        sizes = "".join(f"{name} {size}, " for name, size in self.sizes.items())
        return f"{sizes}free sizes {self.free_size}, integers {integers}"


def recipes(*, values_become_sizes: bool, sizes: Mapping[str, int] = MappingProxyType({})) -> list[Recipe]:
    """Returns the recipes to try, in order.

    With `values_become_sizes`, small integers come first, since large ones may become tensors of any size. `sizes` are
    the known sizes of free dimensions, by name.
    """
    ranges = (_SIZES, _BITS, _ZEROS, _BYTES) if values_become_sizes else (_BYTES, _BITS)
    return [Recipe(size, *integers, dict(sizes)) for integers in ranges for size in FREE_SIZES]


def synthetic_by_recipe(
    signature: Signature, tried: Sequence[Recipe], axes: Mapping[str, int], most: int = MOST_ELEMENTS
) -> Iterator[tuple[Recipe, dict[str, Array]]]:
    """Yields the inputs of each recipe, except those of more than `most` elements or equivalent to earlier ones."""
    needed = signature.required
    integers = any(spec.dtype in _INTEGERS for spec in needed)
    known = set()
    for recipe in tried:
        shapes = tuple(_shape(spec, recipe, axes.get(spec.name)) for spec in needed)
        kind = shapes, (recipe.lowest, recipe.below) if integers else ()
        if kind in known or sum(map(math.prod, shapes)) > most:
            continue
        known.add(kind)
        yield recipe, synthetic_inputs(signature, recipe, axes, seed=1)


def synthetic_inputs(signature: Signature, recipe: Recipe, axes: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Returns a value for each input that has no default; the same `seed` gives the same values.

    `axes` is the batch axis of each input that has one; its size becomes 1.
    """
    random = np.random.default_rng(seed)
    return {
        spec.name: _values(random, spec, _shape(spec, recipe, axes.get(spec.name)), recipe)
        for spec in signature.required
    }


def _shape(spec: TensorSpec, recipe: Recipe, axis: int | None) -> tuple[int, ...]:
    sizes = [d if isinstance(d, int) else 1 for d in spec.shape]
    for free, name in free_dimensions(spec):
        sizes[free] = recipe.sizes.get(name, recipe.free_size)
    if axis is not None:
        sizes[axis] = 1
    return tuple(sizes)


def _values(random: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], recipe: Recipe) -> Array:
    dtype = NUMPY_DTYPES[spec.dtype]
    if spec.dtype is DataType.STRING:
        return np.asarray(random.choice(_WORDS, shape), dtype=object)
    if spec.dtype in _FLOATS:
        return np.asarray(random.standard_normal(shape)).astype(dtype)
    if spec.dtype is DataType.BOOL:
        return np.asarray(random.integers(0, 2, shape)).astype(dtype)
    below = min(recipe.below, 128) if spec.dtype is DataType.INT8 else recipe.below
    return np.asarray(random.integers(recipe.lowest, below, shape)).astype(dtype)
