"""Converts between tensors of the Open Inference Protocol and NumPy arrays, for all transports. Pure.

Raw inputs become views of the received bytes, and outputs are copied once. Strings are object arrays of `str` in memory
and UTF-8 on the wire. The argument `index` is the index of an input in its request, for error messages.
"""

import math
import struct
from collections.abc import Sequence

import numpy as np

from turnout.errors import InvalidTensor, Unsupported
from turnout.oip.elements import BY_NAME, NUMERIC_NAMES, ElementType
from turnout.serving.inputs.limits import DEFAULT_LIMITS, InputLimits, counted
from turnout.serving.sessions.tensor import Array
from turnout_proto.tensors import holds_bools

_LENGTH = struct.Struct("<I")


def element_type(index: int, datatype: str) -> ElementType:
    """Returns the element type with the name `datatype`. Raises InvalidTensor if the type does not exist."""
    kind = BY_NAME.get(datatype)
    if kind is None:
        expected = f"expected one of {', '.join(BY_NAME)}; got {datatype[:64]!r}"
        raise InvalidTensor.at(f"inputs[{index}].datatype", expected)
    return kind


def check_shape(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Checks the dimensions of a shape, and returns the shape. Does not check the rank.

    Raises:
        InvalidTensor: A dimension is negative.
    """
    if shape and min(shape) < 0:
        raise InvalidTensor.at(f"inputs[{index}].shape", f"expected dimensions of 0 or more, got {list(shape)}")
    return shape


def decode_raw(
    index: int,
    kind: ElementType,
    shape: tuple[int, ...],
    raw: bytes,
    carrier: str,
    limits: InputLimits = DEFAULT_LIMITS,
) -> Array:
    """Converts raw bytes to an array of a shape that has been checked.

    The elements are row-major, little-endian and unpadded; each string is preceded by its length in 4 bytes. Numeric
    arrays are read-only views of the bytes. Errors name the field `carrier`, which has `{}` for the `index` of the
    input.

    Raises:
        InvalidTensor: The bytes do not match the type and the shape.
    """
    count = math.prod(shape)
    if not kind.size:
        limits.check_strings(carrier.format(index), count)
        return filled(index, shape, _split(raw, count, carrier.format(index)))
    if len(raw) != count * kind.size:
        wanted = f"{counted(count * kind.size)} bytes for {kind.name}{list(shape)}"
        raise InvalidTensor.at(carrier.format(index), f"expected {wanted}, got {len(raw)}")
    if kind.name == "BOOL" and not holds_bools(raw):
        raise InvalidTensor.at(carrier.format(index), "expected every byte of a BOOL to be 0 or 1")
    try:
        return np.ndarray(shape, kind.dtype, raw)
    except ValueError:
        raise _too_large(index, shape) from None


def encode_raw(name: str, array: Array) -> tuple[str, bytes]:
    """Returns the name of an output's element type in the protocol, and the elements in the format of `decode_raw`.

    Raises:
        Unsupported: The protocol has no such type.
    """
    datatype = datatype_of(name, array)
    return datatype, _join(array) if array.dtype == object else array.tobytes()


def datatype_of(name: str, array: Array) -> str:
    """Returns the name of an output's element type in the protocol.

    Raises:
        Unsupported: The protocol has no such type.
    """
    datatype = NUMERIC_NAMES.get(array.dtype)
    if datatype is not None:
        return datatype
    if array.dtype == object:
        return "BYTES"
    raise Unsupported(f"output {name} is of type {array.dtype}, which this protocol does not know")


def shaped(index: int, shape: tuple[int, ...], array: Array) -> Array:
    """Reshapes a flat array with the matching number of elements to `shape`.

    Raises:
        InvalidTensor: No array can have that shape.
    """
    try:
        return array.reshape(shape)
    except ValueError:
        raise _too_large(index, shape) from None


def filled(index: int, shape: tuple[int, ...], strings: Sequence[str]) -> Array:
    """Returns an array of strings. Raises the same errors as `shaped`."""
    array: Array = np.empty(len(strings), object)
    array[:] = strings
    return shaped(index, shape, array)


def text(data: bytes, field: str, index: int) -> str:
    """Decodes `data`, which is element `index` of `field`, as UTF-8.

    Raises:
        InvalidTensor: The data is not valid UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidTensor.at(f"{field}[{index}]", f"expected UTF-8 text, got another byte at {error.start}") from None


def repeated(index: int, name: str) -> InvalidTensor:
    """Returns the error for an input that occurs twice in a request."""
    return InvalidTensor.at(f"inputs[{index}].name", f"expected each input once, got {name[:64]!r} again")


def _split(raw: bytes, count: int, field: str) -> list[str]:
    total = len(raw)
    if count * _LENGTH.size > total:
        raise InvalidTensor.at(field, f"expected {counted(count)} behind their lengths, got {total} bytes")
    strings: list[str] = []
    start = 0
    for element in range(count):
        end = start + _LENGTH.size
        start, end = end, end + (_LENGTH.unpack_from(raw, start)[0] if end <= total else 0)
        if end > total:
            raise InvalidTensor.at(field, f"expected {count} elements, got {element} and an incomplete one")
        strings.append(text(raw[start:end], field, element))
        start = end
    if start != total:
        raise InvalidTensor.at(field, f"expected {count} elements, got {total - start} bytes more")
    return strings


def _join(array: Array) -> bytes:
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        data = element if isinstance(element, bytes) else str(element).encode(errors="replace")
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _too_large(index: int, shape: tuple[int, ...]) -> InvalidTensor:
    return InvalidTensor.at(f"inputs[{index}].shape", f"expected dimensions that memory can hold, got {list(shape)}")
