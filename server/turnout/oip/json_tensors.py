"""Converts tensors from and to JSON: lists in row-major order, flat or nested like the shape. Pure.

JSON cannot represent NaN and infinities, so answers contain the strings "NaN", "Infinity" and "-Infinity", as protobuf
writes them. Requests may contain these, what Python prints ("nan", "inf", "-inf"), or the bare literals, which the JSON
parser has converted to floats. The Open Inference Protocol does not allow FP16 and BF16 in JSON; they are only sent in
the binary part of a body.

A call into C holds the GIL until it returns. Elements are therefore converted in slices, so that a conversion in one
thread does not block the other threads.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from turnout.errors import InvalidRequest, InvalidTensor
from turnout.oip.elements import ElementType
from turnout.oip.tensors import shaped
from turnout.registry.manifest.signature import TensorSpec
from turnout.serving.inputs.limits import DEFAULT_LIMITS, InputLimits, counted
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array
from turnout.text.quantities import json_name

_UNWRITABLE = frozenset(("FP16", "BF16"))
_NOT_FINITE: Mapping[str, float] = {
    name: float(name) for name in ("NaN", "Infinity", "-Infinity", "nan", "inf", "-inf")
}
_SLICE = 16384
"""Number of elements converted in one call, which takes 1 to 2 ms."""

_ELEMENTS: Mapping[str, frozenset[type]] = {
    "b": frozenset((bool,)),
    "u": frozenset((int,)),
    "i": frozenset((int,)),
    "f": frozenset((int, float)),
    "V": frozenset((int, float)),  # ml_dtypes' bfloat16
    "O": frozenset((str,)),
}
"""For each kind of dtype, the Python types that the JSON parser returns for such elements."""


def from_json(index: int, kind: ElementType, shape: tuple[int, ...], data: Any) -> Array:
    """Converts an input to an array. Values are never rounded to integers, truncated or converted to another type.

    The shape has been checked, and `data` is what the JSON parser returned.

    Raises:
        InvalidTensor: The data is not a list, its length does not match the shape, or an element has the wrong type.
    """
    field = f"inputs[{index}].data"
    if kind.name in _UNWRITABLE:
        raise InvalidTensor.at(field, f"expected {kind.name} elements in the binary part (binary_data_size), got JSON")
    if not isinstance(data, list):
        raise InvalidTensor.at(field, "expected a list")
    elements = _flat(field, shape, data)
    count = math.prod(shape)
    if len(elements) != count:
        raise InvalidTensor.at(field, f"expected {counted(count)} for {kind.name}{list(shape)}, got {len(elements)}")
    return shaped(index, shape, _array(field, f"{field}[{{}}]", kind.name, kind.dtype, elements))


def from_nested(spec: TensorSpec, data: Any, limits: InputLimits = DEFAULT_LIMITS) -> Array:
    """Converts an input to an array with the dtype of its signature and the shape of its lists, as `from_json` does.

    `data` is nested lists, or a single element for a scalar.

    Raises:
        InvalidTensor: The lists are ragged, or an element has the wrong type.
    """
    field = f"inputs.{spec.name}"
    shape: tuple[int, ...] = ()
    level = data
    while isinstance(level, list):
        shape += (len(level),)
        limits.check_rank(field, len(shape))
        level = level[0] if level else None
    dtype = NUMPY_DTYPES[spec.dtype]
    elements = _nested(field, shape, data) if shape else [data]
    escaped = field.replace("{", "{{").replace("}", "}}")  # errors do not give positions in nested lists
    return _array(field, escaped, str(spec.dtype), dtype, elements).reshape(shape)


def to_json(name: str, datatype: str, array: Array) -> orjson.Fragment:
    """Returns the elements of an output as a flat list.

    Raises:
        InvalidRequest: The type cannot be represented in JSON.
    """
    if datatype in _UNWRITABLE:
        raise InvalidRequest.at("outputs", f"output {name} is {datatype}, which JSON cannot hold: ask for binary_data")
    return to_nested(array.ravel())


def to_nested(array: Array) -> orjson.Fragment:
    """Returns an array as nested lists, or a scalar as a single value."""
    return orjson.Fragment(_rendered(array))


def _rendered(array: Array) -> bytes:
    if array.size <= _SLICE or not array.ndim:
        return _dumped(array)
    row = array.size // array.shape[0]
    if row > _SLICE:
        return b"[" + b",".join(map(_rendered, array)) + b"]"
    rows = _SLICE // row
    parts = (_dumped(array[start : start + rows])[1:-1] for start in range(0, array.shape[0], rows))
    return b"[" + b",".join(parts) + b"]"


def _dumped(array: Array) -> bytes:
    if array.dtype == object:
        texts = np.empty(array.shape, object)
        texts.ravel()[:] = [_text(element) for element in array.ravel().tolist()]
        return orjson.dumps(texts.tolist())
    if array.dtype.kind == "V" or array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        mixed = array.astype(object)
        mixed[~finite] = [json_name(element) for element in array[~finite].tolist()]
        return orjson.dumps(mixed.tolist())
    if not array.ndim:
        return orjson.dumps(array.item())
    return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)


def _text(element: Any) -> str:
    """Returns an element as a string, with characters that UTF-8 cannot encode replaced."""
    text = element.decode(errors="replace") if isinstance(element, bytes) else str(element)
    return text if text.isascii() else text.encode(errors="replace").decode()


def _flat(field: str, shape: tuple[int, ...], data: list[Any]) -> Sequence[Any]:
    """Returns the elements in one list. If the lists are nested, they must have one level for each dimension."""
    if not (data and isinstance(data[0], list)):
        return data
    if not shape or len(data) != shape[0]:
        raise InvalidTensor.at(field, f"expected lists of the shape {list(shape)}, or all elements in one")
    level: list[Any] = data
    for depth, size in enumerate(shape[1:], 2):
        if not all(isinstance(part, list) and len(part) == size for part in level):
            raise InvalidTensor.at(field, f"expected lists of {size} at depth {depth}, as the shape has it")
        level = list(chain.from_iterable(level))
    return level


def _nested(field: str, shape: tuple[int, ...], data: list[Any]) -> Sequence[Any]:
    """Returns the elements in one list. `shape` is the length of the first list at each depth."""
    level: list[Any] = data
    for size in shape[1:]:
        if not all(isinstance(part, list) and len(part) == size for part in level):
            raise _ragged(field)
        level = list(chain.from_iterable(level))
    if any(isinstance(element, list) for element in level):
        raise _ragged(field)
    return level


def _ragged(field: str) -> InvalidTensor:
    return InvalidTensor.at(field, "expected JSON lists of one length at each depth")


def _preview(element: Any) -> str:
    """Returns a value as JSON, shortened to at most 40 characters."""
    if isinstance(element, list | dict):
        return "a list" if isinstance(element, list) else "an object"
    if isinstance(element, float) and not math.isfinite(element):
        return json_name(element)
    return orjson.dumps(element[:64] if isinstance(element, str) else element).decode()[:40]


def _slices(elements: Sequence[Any]) -> "chain[tuple[int, Sequence[Any]]]":
    starts = range(0, len(elements), _SLICE)
    return chain((start, elements[start : start + _SLICE]) for start in starts)


def _checked(field: str, name: str, dtype: np.dtype[Any], elements: Sequence[Any]) -> list[Any]:
    """Checks that the type of each element fits the dtype, and converts strings such as "NaN" to numbers.

    Errors name `field`, which has `{}` for the position of an element, and the type `name`.

    Raises:
        InvalidTensor: An element has the wrong type.
    """
    types = _ELEMENTS[dtype.kind]
    checked: list[Any] = []
    for start, piece in _slices(elements):
        if not set(map(type, piece)) <= types:
            if float in types:
                piece = [_NOT_FINITE.get(e, e) if isinstance(e, str) else e for e in piece]
            for place, element in enumerate(piece):
                if type(element) not in types:
                    wrong = f"expected {name} elements, got {_preview(element)}"
                    raise InvalidTensor.at(field.format(start + place), wrong)
        checked += piece
    return checked


def _array(field: str, element: str, name: str, dtype: np.dtype[Any], elements: Sequence[Any]) -> Array:
    """Returns the elements in a flat array. Errors name `field`, or `element` as `_checked` does."""
    array: Array = np.empty(len(elements), dtype)
    if dtype.hasobject:
        array[:] = _checked(element, name, dtype, elements)
        return array
    floats = dtype.kind in "fV"
    try:
        for start, piece in _slices(_checked(element, name, dtype, elements)):
            if not floats:
                array[start : start + _SLICE] = np.array(piece, dtype)
                continue
            wide = np.array(piece, np.float64)
            with np.errstate(over="ignore"):
                narrow = wide.astype(dtype)
            if np.isinf(narrow).sum() != np.isinf(wide).sum():
                raise OverflowError
            array[start : start + _SLICE] = narrow
    except OverflowError:
        raise InvalidTensor.at(field, f"a number is out of the range of {name}") from None
    return array
