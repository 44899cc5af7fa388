"""Tensors of the Open Inference Protocol to NumPy arrays and back.

Raw inputs are looked at where they lie, without a copy; outputs are copied once. Strings are object arrays of `str`
inside and UTF-8 outside.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from turnout.errors import InvalidRequest, InvalidTensor, Unsupported
from turnout.rpc.oip.elements import BY_NAME, NUMERIC_NAMES, ElementType
from turnout.serving.tensor import Array
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse

MAX_RANK = 32
"""Most dimensions a tensor may have."""

MAX_TENSORS = 1024
"""Most inputs, and most requested outputs, in a request: each costs time, and a message has room for millions."""

_LENGTH = struct.Struct("<I")
_BOOL_BYTES = b"\x00\x01"
_SHARED_MEMORY = "shared_memory_region"

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
            raise _repeated(index, name)
        kind = BY_NAME.get(tensor.datatype)
        if kind is None:
            raise _unknown_type(index, tensor.datatype)
        shape = _shape(index, tensor)
        if not kind.size:
            inputs[name] = _filled(index, shape, _split(index, raw, math.prod(shape)))
            continue
        expected = math.prod(shape) * kind.size
        if len(raw) != expected:
            raise _bad_length(index, kind, shape, len(raw))
        if kind.name == "BOOL" and raw.translate(None, _BOOL_BYTES):
            raise InvalidTensor.at(f"raw_input_contents[{index}]", "expected every byte of a BOOL to be 0 or 1")
        try:
            inputs[name] = np.ndarray(shape, kind.dtype, raw)
        except ValueError:
            raise _too_large(index, shape) from None
    return inputs


def encode_outputs(response: ModelInferResponse, outputs: Iterable[tuple[str, Array]]) -> None:
    """Appends the outputs to a response, their elements raw.

    Raises:
        Unsupported: An output has an element type that the protocol does not know.
    """
    add = response.outputs.add
    append = response.raw_output_contents.append
    for name, array in outputs:
        datatype = NUMERIC_NAMES.get(array.dtype)
        if datatype is not None:
            add(name=name, datatype=datatype, shape=array.shape)
            append(array.tobytes())
        elif array.dtype == object:
            add(name=name, datatype="BYTES", shape=array.shape)
            append(_join(array))
        else:
            raise Unsupported(f"output {name} is of type {array.dtype}, which this protocol does not know")


def refuse_shared_memory(parameters: Iterable[str], field: str) -> None:
    """Raises Unsupported where the parameters of a tensor say that it lies in shared memory."""
    if _SHARED_MEMORY in parameters:
        raise Unsupported(f"{field}.parameters: shared memory is not supported; tensors travel in the request")


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
            raise _repeated(index, tensor.name)
        kind = BY_NAME.get(tensor.datatype)
        if kind is None:
            raise _unknown_type(index, tensor.datatype)
        shape = _shape(index, tensor)
        inputs[tensor.name] = _typed(index, tensor, kind, shape)
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
        raise InvalidTensor.at(field, f"expected {_count(count)} for {kind.name}{list(shape)}, got {len(values)}")
    if not kind.size:
        return _filled(index, shape, [_text(value, f"{field}.bytes_contents[{i}]") for i, value in enumerate(values)])
    array = np.fromiter(values, kind.contents_dtype, count)
    if kind.contents_dtype != kind.dtype:
        bounds = np.iinfo(kind.dtype)
        if count and not (bounds.min <= array.min() and array.max() <= bounds.max):
            raise InvalidTensor.at(field, f"expected values that {kind.name} can hold, got others")
        array = array.astype(kind.dtype)
    try:
        return array.reshape(shape)
    except ValueError:
        raise _too_large(index, shape) from None


def _shape(index: int, tensor: InputTensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if shape and (min(shape) < 0 or len(shape) > MAX_RANK):
        field = f"inputs[{index}].shape"
        if len(shape) > MAX_RANK:
            raise InvalidTensor.at(field, f"expected at most {MAX_RANK} dimensions, got {len(shape)}")
        raise InvalidTensor.at(field, f"expected dimensions of 0 or more, got {list(shape)}")
    return shape


def _split(index: int, raw: bytes, count: int) -> list[str]:
    """Returns `count` strings, each of which stands in `raw` behind its length."""
    field, total = f"raw_input_contents[{index}]", len(raw)
    if count * _LENGTH.size > total:
        raise InvalidTensor.at(field, f"expected {_count(count)} behind their lengths, got {total} bytes")
    strings: list[str] = []
    start = 0
    for element in range(count):
        end = start + _LENGTH.size
        start, end = end, end + (_LENGTH.unpack_from(raw, start)[0] if end <= total else 0)
        if end > total:
            raise InvalidTensor.at(field, f"expected {count} elements, got {element} and an incomplete one")
        strings.append(_text(raw[start:end], f"{field}[{element}]"))
        start = end
    if start != total:
        raise InvalidTensor.at(field, f"expected {count} elements, got {total - start} bytes more")
    return strings


def _join(array: Array) -> bytes:
    """Returns the strings of `array`, each behind its length."""
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        data = element if isinstance(element, bytes) else str(element).encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _text(data: bytes, field: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidTensor.at(field, f"expected UTF-8 text, got another byte at {error.start}") from None


def _filled(index: int, shape: tuple[int, ...], strings: Sequence[str]) -> Array:
    array: Array = np.empty(len(strings), object)
    array[:] = strings
    try:
        return array.reshape(shape)
    except ValueError:
        raise _too_large(index, shape) from None


def _repeated(index: int, name: str) -> InvalidRequest:
    return InvalidTensor.at(f"inputs[{index}].name", f"expected each input once, got {name[:64]!r} again")


def _unknown_type(index: int, datatype: str) -> InvalidRequest:
    return InvalidTensor.at(f"inputs[{index}].datatype", f"expected one of {', '.join(BY_NAME)}; got {datatype[:64]!r}")


def _bad_length(index: int, kind: ElementType, shape: tuple[int, ...], got: int) -> InvalidRequest:
    expected = _count(math.prod(shape) * kind.size)
    wanted = f"{expected} bytes for {kind.name}{list(shape)}"
    return InvalidTensor.at(f"raw_input_contents[{index}]", f"expected {wanted}, got {got}")


def _too_large(index: int, shape: tuple[int, ...]) -> InvalidRequest:
    return InvalidTensor.at(f"inputs[{index}].shape", f"expected dimensions that memory can hold, got {list(shape)}")


def _count(number: int) -> str:
    return str(number) if number < 2**63 else "more than can be counted"
