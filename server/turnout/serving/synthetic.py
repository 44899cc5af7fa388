"""Made-up inputs of a signature, for warm-up and for finding out how a model batches. Pure but for NumPy."""

from collections.abc import Mapping

import numpy as np

from turnout.registry.signature import DataType, Signature, TensorSpec
from turnout.serving.tensor import NUMPY_DTYPES, Array

FREE_SIZES = (1, 8, 32, 128, 512)
"""Sizes tried, in this order, for free dimensions: 1 suits most graphs, convolutions over time need more."""

INTEGERS_BELOW = (256, 2)
"""Ranges of integers tried, in this order. Bytes and token ids take the wide one, small tables only 0 and 1; a constant
or nearly constant input would be easier still, and drives normalisations to where rounding is all that is left."""

_WORDS = np.array(["turnout", "points", "frog", "siding"], dtype=object)


def synthetic_inputs(
    signature: Signature, free_size: int, integers_below: int, axes: Mapping[str, int], seed: int
) -> dict[str, Array]:
    """Makes one value for each input that has no default.

    Args:
        signature: Of the model.
        free_size: What every free dimension becomes, save the batch axes.
        integers_below: Bound of integers.
        axes: The batch axis of each input that has one; it becomes 1.
        seed: Of the numbers; the same seed gives the same values.
    """
    random = np.random.default_rng(seed)
    return {
        spec.name: _values(random, spec, _shape(spec, free_size, axes.get(spec.name)), integers_below)
        for spec in signature.inputs
        if not spec.has_default
    }


def _shape(spec: TensorSpec, free_size: int, axis: int | None) -> tuple[int, ...]:
    sizes = [d if isinstance(d, int) else free_size for d in spec.shape]
    if axis is not None:
        sizes[axis] = 1
    return tuple(sizes)


def _values(random: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], integers_below: int) -> Array:
    dtype = NUMPY_DTYPES[spec.dtype]
    if spec.dtype is DataType.STRING:
        return np.asarray(random.choice(_WORDS, shape), dtype=object)
    if spec.dtype in _FLOATS:
        return np.asarray(random.standard_normal(shape)).astype(dtype)
    highest = 2 if spec.dtype is DataType.BOOL else min(integers_below, 128 if spec.dtype is DataType.INT8 else 256)
    return np.asarray(random.integers(0, highest, shape)).astype(dtype)


_FLOATS = {DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT32, DataType.FLOAT64}
