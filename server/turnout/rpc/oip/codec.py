"""Converts the protocol's messages: parameters to plain values, and input tensors to NumPy arrays.

The elements of a tensor are in raw bytes, or in the list for their type.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from turnout.errors import InvalidTensor
from turnout.oip.elements import BY_NAME, ElementType
from turnout.oip.extensions.shared_memory import NO_MEMORY, STORED_INPUT, CallerMemory
from turnout.oip.parameters import NO_PARAMETERS, Parameters, Place, Value, check_parameter_count, place_of
from turnout.oip.tensors import check_shape, decode_raw, element_type, filled, repeated, shaped, text
from turnout.rpc.parsing.templates import Fields
from turnout.serving.inputs.limits import DEFAULT_LIMITS, InputLimits, counted
from turnout.serving.sessions.tensor import Array
from turnout_proto.oip.inference_pb2 import InferParameter, LogSettingsRequest, ModelInferRequest

_RAW = "raw_input_contents[{}]"

_SLICE = 16384
"""Number of elements converted in one call, which holds the GIL for 0.5 ms."""

InputTensor = ModelInferRequest.InferInputTensor

_NUMBERS = {name: descriptor.number for name, descriptor in ModelInferRequest.DESCRIPTOR.fields_by_name.items()}

FIELDS = Fields(request=0, id=_NUMBERS["id"], tensor=0, elements=_NUMBERS["raw_input_contents"], sent=0)
"""The fields in which a request may differ from the cached request that it matches."""


def decode_inputs(
    request: ModelInferRequest, limits: InputLimits = DEFAULT_LIMITS, memory: CallerMemory = NO_MEMORY
) -> dict[str, Array]:
    """Returns the inputs of a request, by name.

    Numeric arrays are read-only views of the request's bytes, or of a copy of the bytes in shared memory. `memory` has
    the caller's shared memory regions.

    Raises:
        InvalidRequest, InvalidTensor: A tensor violates the protocol or the limits. The error names the field.
        NotFoundError, Unsupported: As for `CallerMemory.find`.
    """
    tensors = request.inputs
    limits.check_tensors("inputs", len(tensors))
    places: dict[int, Place] = {}
    for index, tensor in enumerate(tensors):
        if tensor.parameters:
            parameters = plain(tensor.parameters, f"inputs[{index}].parameters")
            if (place := place_of(parameters, f"inputs[{index}]")) is not None:
                places[index] = place
    if places:
        memory.check(f"inputs[{min(places)}]")
    raws, sent = request.raw_input_contents, len(tensors) - len(places)
    if raws and len(raws) != sent:
        beside = " that do not lie in shared memory" if places else ""
        raise InvalidTensor.at(
            "raw_input_contents", f"expected one for each of {sent} inputs{beside}, or none at all; got {len(raws)}"
        )
    inputs: dict[str, Array] = {}
    left, raw = limits, iter(raws)
    for index, tensor in enumerate(tensors):
        name = tensor.name
        if name in inputs:
            raise repeated(index, name)
        limits.check_name(f"inputs[{index}].name", name)
        kind = BY_NAME.get(tensor.datatype) or element_type(index, tensor.datatype)
        limits.check_rank(f"inputs[{index}].shape", len(tensor.shape))
        shape = check_shape(index, tuple(tensor.shape))
        elsewhere = "shared memory" if index in places else "raw_input_contents" if raws else ""
        if elsewhere and tensor.HasField("contents"):
            raise InvalidTensor.at(f"inputs[{index}].contents", f"expected none beside {elsewhere}, got some")
        if index in places:
            stored = memory.read(places[index], f"inputs[{index}]")
            array = decode_raw(index, kind, shape, stored, STORED_INPUT, left)
        elif raws:
            array = decode_raw(index, kind, shape, next(raw), _RAW, left)
        else:
            array = _typed(index, tensor, kind, shape, left)
            if kind.size and kind.contents_dtype.kind != "f":
                left = replace(left, elements=left.elements - array.size)
        inputs[name] = array
        if not kind.size:
            left = replace(left, strings=left.strings - array.size)
    return inputs


def _typed(index: int, tensor: InputTensor, kind: ElementType, shape: tuple[int, ...], left: InputLimits) -> Array:
    """Returns an array whose elements are in the list for its type."""
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


def plain(parameters: Mapping[str, InferParameter], field: str = "parameters") -> Parameters:
    """Returns the values of parameters by name; None for a parameter without a value.

    Raises:
        InvalidRequest: There are too many parameters.
    """
    if not parameters:
        return NO_PARAMETERS
    check_parameter_count(field, len(parameters))
    return {key: value_of(parameters[key]) for key in parameters}


def wanted_outputs(
    outputs: Sequence[ModelInferRequest.InferRequestedOutputTensor], limits: InputLimits
) -> Sequence[tuple[str, Parameters]]:
    """Returns the name and the parameters of each requested output.

    Raises:
        InvalidRequest: There are too many outputs or parameters, or a name is too long.
    """
    limits.check_tensors("outputs", len(outputs))
    wanted = []
    for index, output in enumerate(outputs):
        limits.check_name(f"outputs[{index}].name", output.name)
        wanted.append((output.name, plain(output.parameters, f"outputs[{index}].parameters")))
    return wanted


def value_of(parameter: InferParameter | LogSettingsRequest.SettingValue) -> Value:
    """Returns the value of a parameter or setting; None if it has none."""
    choice = parameter.WhichOneof("parameter_choice")
    value: Value = getattr(parameter, choice) if choice else None
    return value
