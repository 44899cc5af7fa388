"""Parses the bodies of inference requests. Pure.

A body is a JSON object. If the header Inference-Header-Content-Length has the length of the JSON, raw data follows it:
that of each input with a `binary_data_size`, in order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from turnout.errors import InvalidRequest, InvalidTensor
from turnout.oip.extensions.shared_memory import NO_MEMORY, STORED_INPUT, CallerMemory
from turnout.oip.json_tensors import from_json
from turnout.oip.parameters import NO_PARAMETERS, Parameters, check_id, check_parameter_count, place_of, whole
from turnout.oip.tensors import check_shape, decode_raw, element_type, repeated
from turnout.serving.inputs.limits import DEFAULT_LIMITS, InputLimits
from turnout.serving.sessions.tensor import Array
from turnout.web.json_body import json_object

HEADER_LENGTH = "inference-header-content-length"
"""Name of the header with the length of the JSON in bytes, after which the binary part begins."""

BINARY_SIZE = "binary_data_size"

_BINARY = "binary_data"
_BINARY_OUTPUT = "binary_data_output"
_CARRIER = "inputs[{}] (binary)"


@dataclass(frozen=True, slots=True)
class InferenceBody:
    """A body with parsed JSON, whose tensors are not read yet. `binary` are the bytes after the JSON."""

    request_id: str
    document: Mapping[str, Any]
    binary: bytes
    limits: InputLimits


@dataclass(frozen=True, slots=True)
class BinaryOutputs:
    """The outputs to return in the binary part of the response; `default` is for those that are not in `by_output`."""

    by_output: Mapping[str, bool]
    default: bool

    def wants(self, name: str) -> bool:
        """Returns whether to return the output `name` in binary form."""
        return self.by_output.get(name, self.default)


def open_body(body: bytes, header_length: str | None, limits: InputLimits = DEFAULT_LIMITS) -> InferenceBody:
    """Parses the JSON of a decompressed body: all of it if `header_length`, the value of the header, is None.

    Raises:
        InvalidRequest: The header is not a length within the body, or the JSON is not an object or exceeds the limits.
    """
    end = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 20):
            raise InvalidRequest.at(f"header {HEADER_LENGTH}", "expected a number of bytes")
        end = int(header_length)
        if not 0 < end <= len(body):
            raise InvalidRequest.at(f"header {HEADER_LENGTH}", f"expected 1 to {len(body)}, the body's, got {end}")
    document = json_object(body[:end], limits, '{"inputs": [...]}')
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidRequest.at("id", "expected a string")
    return InferenceBody(check_id(request_id), document, body[end:], limits)


def read_inputs(body: InferenceBody, memory: CallerMemory = NO_MEMORY) -> dict[str, Array]:
    """Returns the inputs by name. `memory` is the caller's shared memory.

    Raises:
        InvalidRequest, InvalidTensor: A tensor violates the protocol; the error names the field.
        NotFoundError, Unsupported: As for `CallerMemory.find`.
    """
    tensors = _objects(body.document, "inputs")
    if "inputs" not in body.document:
        raise InvalidRequest.at("inputs", "expected a list of tensors")
    limits = strings_left = body.limits
    limits.check_tensors("inputs", len(tensors))
    inputs: dict[str, Array] = {}
    start = 0
    for index, tensor in enumerate(tensors):
        parameters = _parameters(tensor, f"inputs[{index}].parameters")
        place = place_of(parameters, f"inputs[{index}]")
        if place is not None:
            memory.check(f"inputs[{index}]")
        name = _text(tensor, "name", index)
        if name in inputs:
            raise repeated(index, name)
        limits.check_name(f"inputs[{index}].name", name)
        kind = element_type(index, _text(tensor, "datatype", index))
        shape = _shape(tensor, index, limits)
        if place is None and BINARY_SIZE not in parameters:
            inputs[name] = from_json(index, kind, shape, tensor.get("data"))
            continue
        if "data" in tensor:
            beside = BINARY_SIZE if place is None else "shared memory"
            raise InvalidTensor.at(f"inputs[{index}].data", f"expected none beside {beside}, got some")
        if place is not None:
            raw = memory.read(place, f"inputs[{index}]")
            inputs[name] = decode_raw(index, kind, shape, raw, STORED_INPUT, strings_left)
        else:
            size = whole(parameters[BINARY_SIZE], f"inputs[{index}].parameters.{BINARY_SIZE}")
            if not 0 <= size <= len(body.binary) - start:
                left = f"expected 0 to {len(body.binary) - start}, which are left of the body, got {size}"
                raise InvalidTensor.at(f"inputs[{index}].parameters.{BINARY_SIZE}", left)
            # Copied because a new `bytes` is aligned for any element type; the data in the body may not be.
            inputs[name] = decode_raw(index, kind, shape, body.binary[start : start + size], _CARRIER, strings_left)
            start += size
        if not kind.size:
            strings_left = replace(strings_left, strings=strings_left.strings - inputs[name].size)
    if start != len(body.binary):
        raise InvalidRequest.at("body", f"expected {start} bytes behind the JSON, got {len(body.binary)}")
    return inputs


def read_parameters(body: InferenceBody) -> Parameters:
    """Returns the parameters of the request itself.

    Raises:
        InvalidRequest: The parameters are not an object of plain values.
    """
    return _parameters(body.document, "parameters")


def read_outputs(body: InferenceBody) -> Sequence[tuple[str, Parameters]]:
    """Returns the name and parameters of each requested output; empty for all.

    Raises:
        InvalidRequest: The outputs violate the protocol, or there are too many.
    """
    wanted = _objects(body.document, "outputs")
    body.limits.check_tensors("outputs", len(wanted))
    outputs: list[tuple[str, Parameters]] = []
    for index, output in enumerate(wanted):
        name = output.get("name")
        if not isinstance(name, str):
            raise InvalidRequest.at(f"outputs[{index}].name", "expected a string")
        body.limits.check_name(f"outputs[{index}].name", name)
        outputs.append((name, _parameters(output, f"outputs[{index}].parameters")))
    return outputs


def read_binary_outputs(outputs: Sequence[tuple[str, Parameters]], parameters: Parameters) -> BinaryOutputs:
    """Returns which outputs to return in binary form. Raises InvalidRequest if a parameter is not a boolean."""
    default = _truth(parameters, _BINARY_OUTPUT, "parameters")
    by_output = {
        name: _truth(parameters, _BINARY, f"outputs[{index}].parameters")
        for index, (name, parameters) in enumerate(outputs)
        if _BINARY in parameters
    }
    return BinaryOutputs(by_output, default)


def _objects(document: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    values = document.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InvalidRequest.at(key, "expected a list of objects")
    return values


def _text(tensor: Mapping[str, Any], key: str, index: int) -> str:
    value = tensor.get(key)
    if not isinstance(value, str):
        raise InvalidTensor.at(f"inputs[{index}].{key}", "expected a string")
    return value


def _shape(tensor: Mapping[str, Any], index: int, limits: InputLimits) -> tuple[int, ...]:
    shape = tensor.get("shape")
    if isinstance(shape, list):
        limits.check_rank(f"inputs[{index}].shape", len(shape))
    if not isinstance(shape, list) or not all(type(size) is int and -(2**63) <= size < 2**63 for size in shape):
        raise InvalidTensor.at(f"inputs[{index}].shape", "expected a list of whole numbers")
    return check_shape(index, tuple(shape))


def _parameters(holder: Mapping[str, Any], field: str) -> Parameters:
    parameters = holder.get("parameters")
    if parameters is None:
        return NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise InvalidRequest.at(field, "expected an object")
    check_parameter_count(field, len(parameters))
    for key, value in parameters.items():
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise InvalidRequest.at(f"{field}.{key[:64]}", "expected true, false, a number or a string")
    return parameters


def _truth(parameters: Parameters, key: str, field: str) -> bool:
    value = parameters.get(key, False)
    if not isinstance(value, bool):
        raise InvalidRequest.at(f"{field}.{key}", "expected true or false")
    return value
