"""Made-up inputs of a signature, for warm-up and for finding out how a model batches. Pure but for NumPy."""

from collections.abc import Mapping

import numpy as np

from turnout.registry.signature import DataType, Signature, TensorSpec
from turnout.serving.tensor import NUMPY_DTYPES, Array

FREE_SIZES = (1, 8, 32, 128, 512)
"""Sizes tried, in this order, for free dimensions: 1 suits most graphs, convolutions over time need more."""

_WORDS = np.array(["turnout", "points", "frog", "siding"], dtype=object)


def synthetic_inputs(
    signature: Signature, free_size: int, axes: Mapping[str, int], rows: int, seed: int
) -> dict[str, Array]:
    """Makes one value for each input that has no default.

    Args:
        signature: Of the model.
        free_size: What every free dimension becomes, save the batch axes.
        axes: The batch axis of each input that has one.
        rows: What the batch axes become.
        seed: Of the numbers; the same seed gives the same values.
    """
    random = np.random.default_rng(seed)
    return {
        spec.name: _values(random, spec, _shape(spec, free_size, axes.get(spec.name), rows))
        for spec in signature.inputs
        if not spec.has_default
    }


def _shape(spec: TensorSpec, free_size: int, axis: int | None, rows: int) -> tuple[int, ...]:
    sizes = [d if isinstance(d, int) else free_size for d in spec.shape]
    if axis is not None:
        sizes[axis] = rows
    return tuple(sizes)


def _values(random: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    dtype = NUMPY_DTYPES[spec.dtype]
    if spec.dtype is DataType.STRING:
        return np.asarray(random.choice(_WORDS, shape), dtype=object)
    if spec.dtype in _FLOATS:
        return np.asarray(random.standard_normal(shape)).astype(dtype)
    # 0 and 1 are valid as booleans, as indices into almost any table, and as token ids.
    return np.asarray(random.integers(0, 2, shape)).astype(dtype)


_FLOATS = {DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT32, DataType.FLOAT64}
