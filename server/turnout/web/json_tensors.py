"""Tensors as nested JSON lists, for people with curl and for the command line.

Numbers take the dtype that the model's signature names.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from turnout.errors import InvalidTensor
from turnout.registry.signature import DataType, Signature, TensorSpec
from turnout.serving.tensor import NUMPY_DTYPES, Array


def to_arrays(inputs: Mapping[str, Any], signature: Signature) -> dict[str, Array]:
    """Returns arrays of the signature's dtypes.

    Args:
        inputs: Nested lists, numbers, booleans or strings by input name.
        signature: Of the version that will run.

    Raises:
        InvalidTensor: A name is unknown, or a value is ragged or has no place in the input's dtype.
    """
    arrays: dict[str, Array] = {}
    for name, value in inputs.items():
        spec = signature.input(name)
        if spec is None:
            known = ", ".join(s.name for s in signature.inputs)
            raise InvalidTensor.at(f"inputs.{name[:64]}", f"unknown; expected {known}")
        arrays[name] = from_json(spec, value)
    return arrays


def to_json(array: Array) -> Any:
    """Returns `array` as nested lists. NaN and the infinities, which JSON lacks, become strings."""
    if array.dtype.kind in "fV" and array.dtype != object:
        wide = array.astype(np.float64)
        if not np.isfinite(wide).all():
            return np.where(np.isfinite(wide), wide, wide.astype(str).astype(object)).tolist()
        return wide.tolist()
    return array.tolist()


def from_json(spec: TensorSpec, value: Any) -> Array:
    """Returns one input as an array of its dtype; nothing is rounded, cut off or read as another kind of value.

    Args:
        spec: The input; its shape is not looked at.
        value: Nested lists, or one element for a scalar.

    Raises:
        InvalidTensor: The lists are ragged, or an element has no place in the dtype.
    """
    field = f"inputs.{spec.name}"
    try:
        loose = np.array(value, dtype=object)
    except ValueError:
        raise InvalidTensor.at(field, "expected JSON lists of one length at each depth") from None
    for item in loose.flat:
        if isinstance(item, list):
            raise InvalidTensor.at(field, "expected JSON lists of one length at each depth")
        if not _fits(spec.dtype, item):
            raise InvalidTensor.at(field, f"expected {spec.dtype} elements, got {json.dumps(item)[:40]}")
    try:
        return loose.astype(NUMPY_DTYPES[spec.dtype])
    except OverflowError:
        raise InvalidTensor.at(field, f"a number is out of the range of {spec.dtype}") from None


def _fits(dtype: DataType, item: Any) -> bool:
    if dtype is DataType.STRING:
        return isinstance(item, str)
    if dtype is DataType.BOOL:
        return isinstance(item, bool)
    if isinstance(item, bool):
        return False
    if NUMPY_DTYPES[dtype].kind in "iu":
        return isinstance(item, int)
    return isinstance(item, int | float)
