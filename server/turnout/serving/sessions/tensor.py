"""The representation of tensors inside the server. Pure."""

import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes  # noqa: F401 - makes `bfloat16` known to NumPy
import numpy as np
from numpy.typing import NDArray

from turnout.registry.manifest.signature import DataType

Array = NDArray[Any]
"""Value of a tensor. Strings are object arrays of `str`; bfloat16 is `ml_dtypes.bfloat16`."""

NUMPY_DTYPES: Mapping[DataType, np.dtype[Any]] = MappingProxyType(
    {kind: np.dtype(object if kind is DataType.STRING else kind.value) for kind in DataType}
)
"""NumPy dtype of each element type; strings are object arrays of `str`."""

_WHOLE_BYTES = 128 * 1024
"""Size in bytes up to which `elements_of` returns a single part."""

_TAIL_BYTES = 1024
"""Size in bytes of the last part of larger tensors."""


def identical(one: Array, other: Array) -> bool:
    """Returns whether two tensors are equal bit for bit."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(one.tolist() == other.tolist()) if one.dtype == object else one.tobytes() == other.tobytes()


def elements_of(array: Array) -> list[bytes]:
    """Returns the elements of a numeric tensor as one part, or as two if the tensor is large.

    The second of two is small, so that a transport can copy the last part of an answer at little cost to count it.
    """
    if array.nbytes <= _WHOLE_BYTES:
        return [array.tobytes()]
    elements = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [elements[:-_TAIL_BYTES].tobytes(), elements[-_TAIL_BYTES:].tobytes()]


def memory_of(arrays: Iterable[Array]) -> int:
    """Returns the size of `arrays` in bytes, including that of their strings."""
    size = 0
    for array in arrays:
        size += array.nbytes
        if array.dtype == object:
            elements = array.ravel().tolist()
            try:
                size += sum(map(str.__sizeof__, elements))  # 28 ms for a million; sys.getsizeof takes 92
            except TypeError:
                size += sum(map(sys.getsizeof, elements))
    return size
