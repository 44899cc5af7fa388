"""Tensors as nested JSON lists, for people with curl. Numbers take the dtype that the model's signature names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from turnout.errors import InvalidTensor
from turnout.registry.signature import DataType, Signature
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
        try:
            arrays[name] = _array(value, spec.dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidTensor.at(f"inputs.{name}", f"expected {spec} as nested lists") from error
    return arrays


def to_json(array: Array) -> Any:
    """Returns `array` as nested lists. NaN and the infinities, which JSON lacks, become strings."""
    if array.dtype.kind in "fV" and array.dtype != object:
        wide = array.astype(np.float64)
        if not np.isfinite(wide).all():
            return np.where(np.isfinite(wide), wide, wide.astype(str).astype(object)).tolist()
        return wide.tolist()
    return array.tolist()


def _array(value: Any, dtype: DataType) -> Array:
    target = NUMPY_DTYPES[dtype]
    if dtype is DataType.STRING:
        array = np.array(value, dtype=object)
        if not all(isinstance(item, str) for item in array.ravel()):
            raise ValueError("not all strings")
        return array
    raw = np.asarray(value)
    if raw.dtype.kind not in "bifu" and raw.size:
        raise ValueError("not all numbers")
    if target.kind in "iu" and raw.dtype.kind == "f":
        raise ValueError("fractions for an integer input")
    if (target.kind == "b") != (raw.dtype.kind == "b") and raw.size:
        raise ValueError("booleans and numbers are not one another")
    if target.kind in "iu" and raw.size:
        limits = np.iinfo(target)
        if int(raw.min()) < limits.min or int(raw.max()) > limits.max:
            raise OverflowError("out of range")
    return raw.astype(target)
