"""Tensor data as the protocol writes it in JSON: a list in row-major order, flat or nested as the shape is. Pure.

JSON has no place for FP16 and BF16, which travel in the binary part of a body only. It has no NaN
and no infinities either: they are the strings "nan", "inf" and "-inf", both ways.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from turnout.errors import InvalidRequest, InvalidTensor
from turnout.oip.elements import ElementType
from turnout.oip.tensors import counted, filled, shaped
from turnout.serving.tensor import Array

_UNWRITABLE = frozenset(("FP16", "BF16"))
_NOT_FINITE: Mapping[str, float] = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

_ELEMENTS: Mapping[str, tuple[frozenset[type], str]] = {
    "b": (frozenset((bool,)), "true or false"),
    "u": (frozenset((int,)), "whole numbers"),
    "i": (frozenset((int,)), "whole numbers"),
    "f": (frozenset((int, float)), "numbers"),
    "O": (frozenset((str,)), "strings"),
}
"""By kind of dtype: the types that JSON's parser gives such elements, and what errors call them."""


def from_json(index: int, kind: ElementType, shape: tuple[int, ...], data: Any) -> Array:
    """Returns an input as an array; nothing is rounded to a whole number, cut off or read as another kind of value.

    Args:
        index: Of the input.
        kind: Of its elements.
        shape: Of the array; checked.
        data: As JSON's parser returned it.

    Raises:
        InvalidTensor: It is no list, or not of as many elements as the shape has, or one has no place in the type.
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
    types, words = _ELEMENTS[kind.dtype.kind]
    if not set(map(type, elements)) <= types:
        elements = (
            [_NOT_FINITE.get(e, e) if isinstance(e, str) else e for e in elements] if float in types else elements
        )
        for place, element in enumerate(elements):
            if type(element) not in types:
                raise InvalidTensor.at(f"{field}[{place}]", f"expected {words} for {kind.name}, got another value")
    if not kind.size:
        return filled(index, shape, elements)
    return shaped(index, shape, _numbers(field, kind, elements))


def to_json(name: str, datatype: str, array: Array) -> list[Any] | Array:
    """Returns the elements of an output, flat: an array of numbers that are all finite, or else a list.

    Args:
        name: Of the output.
        datatype: The protocol's name of its type.
        array: Of any shape.

    Raises:
        InvalidRequest: JSON has no place for the type.
    """
    if datatype in _UNWRITABLE:
        raise InvalidRequest.at("outputs", f"output {name} is {datatype}, which JSON cannot hold: ask for binary_data")
    flat = array.ravel()
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return [e if math.isfinite(e) else str(e) for e in flat.tolist()]
    if flat.dtype == object:
        return [e.decode(errors="replace") if isinstance(e, bytes) else str(e) for e in flat.tolist()]
    return flat


def _flat(field: str, shape: tuple[int, ...], data: list[Any]) -> Sequence[Any]:
    """Returns the elements in one list. Levels are as many as dimensions, whatever was sent."""
    if not (data and isinstance(data[0], list)):
        return data
    level: list[Any] = data
    for depth, size in enumerate(shape):
        if depth:
            if not all(isinstance(part, list) and len(part) == size for part in level):
                raise InvalidTensor.at(field, f"expected lists of {size} at depth {depth + 1}, as the shape has it")
            level = list(chain.from_iterable(level))
        elif len(level) != size:
            raise InvalidTensor.at(field, f"expected a list of {size}, or all elements in one, got {len(level)}")
    return level


def _numbers(field: str, kind: ElementType, elements: Sequence[Any]) -> Array:
    try:
        if kind.dtype.kind != "f":
            return np.array(elements, kind.dtype)
        wide = np.array(elements, np.float64)
        with np.errstate(over="ignore"):
            array: Array = wide.astype(kind.dtype)
    except OverflowError:
        raise InvalidTensor.at(field, f"expected values that {kind.name} can hold, got others") from None
    if np.isinf(array).sum() != np.isinf(wide).sum():
        raise InvalidTensor.at(field, f"expected values that {kind.name} can hold, got others")
    return array
