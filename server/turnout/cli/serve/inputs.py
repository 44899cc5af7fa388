"""Converts `turnout predict --input NAME=...` arguments to arrays that fit the model's signature."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from turnout.errors import InvalidRequest, InvalidTensor
from turnout.oip.json_tensors import from_nested
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.serving.inputs.synthetic import Recipe, synthetic_inputs
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array
from turnout.web.json_body import parse_json

_RANDOM = re.compile(r"random(?::(?P<shape>[0-9]+(?:x[0-9]+)*|scalar))?")
_SEED = 0
"""Seed of `random`: the same command always sends the same numbers."""


def read_inputs(arguments: Sequence[str], signature: Signature) -> dict[str, Array]:
    """Converts `NAME=@FILE.npy`, `NAME=JSON`, `NAME=random` and `NAME=random:4x64` arguments to arrays.

    The signature determines the dtypes, and the shapes of random values, in which free dimensions are 1.

    Raises:
        InvalidRequest: An argument has none of these forms, or an input is given twice.
        InvalidTensor: The model has no such input, or the value does not fit it.
    """
    arrays: dict[str, Array] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not value:
            raise InvalidRequest(f"--input {argument!r}: expected NAME=@FILE.npy, NAME=JSON or NAME=random")
        spec = signature.input(name)
        if spec is None:
            there = "; ".join(str(spec) for spec in signature.inputs)
            raise InvalidTensor.at(f"inputs.{name}", f"the model has no such input; there are: {there}")
        if name in arrays:
            raise InvalidRequest.at(f"inputs.{name}", "it is given twice")
        arrays[name] = _read(spec, value)
    return arrays


def _read(spec: TensorSpec, value: str) -> Array:
    if value.startswith("@"):
        return _from_file(spec, Path(value[1:]))
    if match := _RANDOM.fullmatch(value):
        return _random(spec, match["shape"])
    try:
        elements = parse_json(value.encode())
    except ValueError as error:
        raise InvalidTensor.at(
            f"inputs.{spec.name}", f"expected @FILE.npy, JSON, random or random:4x64, got {value[:40]!r} ({error})"
        ) from None
    return from_nested(spec, elements)


def _from_file(spec: TensorSpec, path: Path) -> Array:
    try:
        with path.open("rb") as file:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InvalidTensor.at(f"inputs.{spec.name}", f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, EOFError) as error:
        raise InvalidTensor.at(
            f"inputs.{spec.name}", f"{path} is not an .npy file of plain elements: {error}"
        ) from None
    if array.dtype.kind == "U":
        return array.astype(object)
    if spec.dtype is DataType.BFLOAT16 and array.dtype == np.dtype("V2"):
        return array.view(NUMPY_DTYPES[spec.dtype])  # .npy has no type name for bfloat16, and stores it as raw bytes
    return array


def _random(spec: TensorSpec, written: str | None) -> Array:
    shape = spec.shape
    if written is not None:
        shape = () if written == "scalar" else tuple(int(size) for size in written.split("x"))
    plain = TensorSpec(spec.name, spec.dtype, shape)
    return synthetic_inputs(Signature((plain,), ()), Recipe(1, 0, 256), {}, _SEED)[spec.name]


def json_elements(array: Array) -> Any:
    """Returns `array` as nested lists of JSON values."""
    if array.dtype.kind in "OSU":
        texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array.flat]
        return np.array(texts, object).reshape(array.shape).tolist()
    if array.dtype.kind == "V":  # ml_dtypes' bfloat16
        return array.astype(np.float32).tolist()
    return array.tolist()


def array_body(array: Array) -> dict[str, Any]:
    """Returns `array` as JSON values."""
    return {"dtype": dtype_name(array), "shape": list(array.shape), "data": json_elements(array)}


def summary(array: Array) -> str:
    """Returns the first and last elements on one line."""
    with np.printoptions(threshold=8, edgeitems=3, precision=5, suppress=False, linewidth=10_000):
        return " ".join(str(array).split())


def dtype_name(array: Array) -> str:
    """Returns the name of the element type as in signatures."""
    return "string" if array.dtype.kind in "OSU" else array.dtype.name


def missing(given: Mapping[str, Array], signature: Signature) -> list[TensorSpec]:
    """Returns the required inputs that are missing."""
    return [spec for spec in signature.inputs if spec.name not in given and not spec.has_default]
