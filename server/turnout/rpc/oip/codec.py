"""Tensors of the protocol's messages to NumPy arrays and back: raw, or in the list that belongs to their type."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from turnout.errors import InvalidTensor
from turnout.oip.elements import BY_NAME, ElementType
from turnout.oip.tensors import (
    check_shape,
    decode_raw,
    element_type,
    encode_raw,
    filled,
    refuse_shared_memory,
    repeated,
    shaped,
    text,
)
from turnout.serving.limits import DEFAULT_LIMITS, InputLimits, counted
from turnout.serving.tensor import Array
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse

_RAW = "raw_input_contents[{}]"

_SLICE = 16384
"""Elements that are converted in one call, during which the GIL is held; 0.5 ms."""

InputTensor = ModelInferRequest.InferInputTensor


def decode_inputs(request: ModelInferRequest, limits: InputLimits = DEFAULT_LIMITS) -> dict[str, Array]:
    """Returns the inputs of a request, by name. Arrays of numbers are read-only views of the request's bytes.

    Raises:
        InvalidTensor: A tensor is not what the protocol says a tensor is, or beyond the limits; the error names the
            field.
        Unsupported: A tensor lies in shared memory.
    """
    tensors = request.inputs
    raws = request.raw_input_contents
    count = len(tensors)
    limits.check_tensors("inputs", count)
    if count != len(raws):
        _check_counts(request)
        return _decode_contents(tensors, limits)
    inputs: dict[str, Array] = {}
    left = limits
    for index, (tensor, raw) in enumerate(zip(tensors, raws, strict=True)):
        if tensor.parameters:
            refuse_shared_memory(tensor.parameters, f"inputs[{index}]")
        if tensor.HasField("contents"):
            raise InvalidTensor.at(f"inputs[{index}].contents", "expected none beside raw_input_contents, got some")
        name = tensor.name
        if name in inputs:
            raise repeated(index, name)
        limits.check_name(f"inputs[{index}].name", name)
        kind = BY_NAME.get(tensor.datatype) or element_type(index, tensor.datatype)
        inputs[name] = decode_raw(index, kind, _shape(index, tensor, limits), raw, _RAW, left)
        if not kind.size:
            left = replace(left, strings=left.strings - inputs[name].size)
    return inputs


def encode_outputs(response: ModelInferResponse, outputs: Iterable[tuple[str, Array]]) -> None:
    """Appends the outputs to a response, their elements raw.

    Raises:
        Unsupported: An output has an element type that the protocol does not know.
    """
    add = response.outputs.add
    append = response.raw_output_contents.append
    for name, array in outputs:
        datatype, raw = encode_raw(name, array)
        add(name=name, datatype=datatype, shape=array.shape)
        append(raw)


def _check_counts(request: ModelInferRequest) -> None:
    """Raises where raw contents are there and are not one for each input."""
    tensors, raws = request.inputs, request.raw_input_contents
    for index, tensor in enumerate(tensors):
        refuse_shared_memory(tensor.parameters, f"inputs[{index}]")
    if raws:
        raise InvalidTensor.at(
            "raw_input_contents", f"expected one for each of {len(tensors)} inputs, or none at all; got {len(raws)}"
        )


def _shape(index: int, tensor: InputTensor, limits: InputLimits) -> tuple[int, ...]:
    limits.check_rank(f"inputs[{index}].shape", len(tensor.shape))
    return check_shape(index, tuple(tensor.shape))


def _decode_contents(tensors: Sequence[InputTensor], limits: InputLimits) -> dict[str, Array]:
    """Returns the inputs of a request without raw contents."""
    inputs: dict[str, Array] = {}
    left = limits
    for index, tensor in enumerate(tensors):
        if tensor.name in inputs:
            raise repeated(index, tensor.name)
        limits.check_name(f"inputs[{index}].name", tensor.name)
        kind = element_type(index, tensor.datatype)
        array = inputs[tensor.name] = _typed(index, tensor, kind, _shape(index, tensor, limits), left)
        if not kind.size:
            left = replace(left, strings=left.strings - array.size)
        elif kind.contents_dtype.kind != "f":
            left = replace(left, elements=left.elements - array.size)
    return inputs


def _typed(index: int, tensor: InputTensor, kind: ElementType, shape: tuple[int, ...], left: InputLimits) -> Array:
    """Returns the array whose elements stand in the list that belongs to its type."""
    field, count = f"inputs[{index}].contents", math.prod(shape)
    lists = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if not kind.contents:
        if lists or count:
            raise InvalidTensor.at(field, f"expected {kind.name} elements in raw_input_contents, got none there")
        values: Any = ()
    elif lists not in ([], [kind.contents]):
        raise InvalidTensor.at(field, f"expected {kind.name} elements in {kind.contents}, got {', '.join(lists)}")
    else:
        values = getattr(tensor.contents, kind.contents)
    if len(values) != count:
        raise InvalidTensor.at(field, f"expected {counted(count)} for {kind.name}{list(shape)}, got {len(values)}")
    if not kind.size:
        left.check_strings(f"{field}.bytes_contents", count)
        return filled(index, shape, [text(value, f"{field}.bytes_contents", i) for i, value in enumerate(values)])
    if kind.contents_dtype.kind != "f":
        left.check_elements(f"{field}.{kind.contents}", count)
    array = np.empty(count, kind.contents_dtype)
    for start in range(0, count, _SLICE):
        array[start : start + _SLICE] = values[start : start + _SLICE]
    if kind.contents_dtype != kind.dtype:
        bounds = np.iinfo(kind.dtype)
        if count and not (bounds.min <= array.min() and array.max() <= bounds.max):
            raise InvalidTensor.at(field, f"expected values that {kind.name} can hold, got others")
        array = array.astype(kind.dtype)
    return shaped(index, shape, array)
