"""Tensors of the protocol's messages to NumPy arrays and back: raw, or in the list that belongs to their type."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from turnout.errors import InvalidTensor
from turnout.oip.elements import BY_NAME, ElementType
from turnout.oip.tensors import (
    MAX_TENSORS,
    check_shape,
    counted,
    decode_raw,
    element_type,
    encode_raw,
    filled,
    refuse_shared_memory,
    repeated,
    shaped,
    text,
)
from turnout.serving.tensor import Array
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse

_RAW = "raw_input_contents[{}]"

InputTensor = ModelInferRequest.InferInputTensor


def decode_inputs(request: ModelInferRequest) -> dict[str, Array]:
    """Returns the inputs of a request, by name. Arrays of numbers are read-only views of the request's bytes.

    Raises:
        InvalidTensor: A tensor is not what the protocol says a tensor is; the error names the field.
        Unsupported: A tensor lies in shared memory.
    """
    tensors = request.inputs
    raws = request.raw_input_contents
    count = len(tensors)
    if count != len(raws) or count > MAX_TENSORS:
        _check_counts(request)
        return _decode_contents(tensors)
    inputs: dict[str, Array] = {}
    for index, (tensor, raw) in enumerate(zip(tensors, raws, strict=True)):
        if tensor.parameters:
            refuse_shared_memory(tensor.parameters, f"inputs[{index}]")
        if tensor.HasField("contents"):
            raise InvalidTensor.at(f"inputs[{index}].contents", "expected none beside raw_input_contents, got some")
        name = tensor.name
        if name in inputs:
            raise repeated(index, name)
        kind = BY_NAME.get(tensor.datatype) or element_type(index, tensor.datatype)
        inputs[name] = decode_raw(index, kind, check_shape(index, tuple(tensor.shape)), raw, _RAW)
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
    """Raises where raw contents are there and are not one for each input, or where there are too many inputs."""
    tensors, raws = request.inputs, request.raw_input_contents
    if len(tensors) > MAX_TENSORS:
        raise InvalidTensor.at("inputs", f"expected at most {MAX_TENSORS}, got {len(tensors)}")
    for index, tensor in enumerate(tensors):
        refuse_shared_memory(tensor.parameters, f"inputs[{index}]")
    if raws:
        raise InvalidTensor.at(
            "raw_input_contents", f"expected one for each of {len(tensors)} inputs, or none at all; got {len(raws)}"
        )


def _decode_contents(tensors: Sequence[InputTensor]) -> dict[str, Array]:
    """Returns the inputs of a request without raw contents."""
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        if tensor.name in inputs:
            raise repeated(index, tensor.name)
        kind = element_type(index, tensor.datatype)
        inputs[tensor.name] = _typed(index, tensor, kind, check_shape(index, tuple(tensor.shape)))
    return inputs


def _typed(index: int, tensor: InputTensor, kind: ElementType, shape: tuple[int, ...]) -> Array:
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
        return filled(index, shape, [text(value, f"{field}.bytes_contents[{i}]") for i, value in enumerate(values)])
    array = np.fromiter(values, kind.contents_dtype, count)
    if kind.contents_dtype != kind.dtype:
        bounds = np.iinfo(kind.dtype)
        if count and not (bounds.min <= array.min() and array.max() <= bounds.max):
            raise InvalidTensor.at(field, f"expected values that {kind.name} can hold, got others")
        array = array.astype(kind.dtype)
    return shaped(index, shape, array)
