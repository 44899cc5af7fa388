"""Converts between NumPy arrays and `turnout.v1.Tensor`, for the client and the server.

Elements are sent as raw little-endian bytes in row-major order. `decode` returns a view of the message's bytes without
copying them; `encode` and `append` copy an array once. These functions run for every request: a small tensor takes 1.1
us to decode and 1.2 us to encode (Python 3.11 at 3 GHz, upb).

Strings are object arrays of `str`, and bfloat16 is `ml_dtypes.bfloat16`.
"""

import math
import sys
from collections.abc import Iterable
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from turnout_proto.v1.prediction_pb2 import DataType, Tensor

Array = NDArray[Any]

MAX_RANK = 32
"""Maximum number of dimensions of a tensor. NumPy before 2.0 supports no more, and no model needs as many."""

_MAX_BYTES = 2**63 - 1

_NUMERIC: dict[int, np.dtype[Any]] = {
    DataType.DATA_TYPE_BOOL: np.dtype("?"),
    DataType.DATA_TYPE_UINT8: np.dtype("u1"),
    DataType.DATA_TYPE_UINT16: np.dtype("<u2"),
    DataType.DATA_TYPE_UINT32: np.dtype("<u4"),
    DataType.DATA_TYPE_UINT64: np.dtype("<u8"),
    DataType.DATA_TYPE_INT8: np.dtype("i1"),
    DataType.DATA_TYPE_INT16: np.dtype("<i2"),
    DataType.DATA_TYPE_INT32: np.dtype("<i4"),
    DataType.DATA_TYPE_INT64: np.dtype("<i8"),
    DataType.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    DataType.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    DataType.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
if sys.byteorder == "little":  # ml_dtypes supports the host's byte order only
    _NUMERIC[DataType.DATA_TYPE_BFLOAT16] = np.dtype(ml_dtypes.bfloat16)

_BOOL = int(DataType.DATA_TYPE_BOOL)
_STRING = int(DataType.DATA_TYPE_STRING)
_BOOL_BYTES = b"\x00\x01"
_CODES: dict[np.dtype[Any], int] = {dtype: code for code, dtype in _NUMERIC.items()}
_SIZED: dict[int, tuple[np.dtype[Any], int]] = {code: (dtype, dtype.itemsize) for code, dtype in _NUMERIC.items()}


class TensorError(ValueError):
    """Raised when a tensor violates the protocol, or an array cannot be represented as a tensor.

    Attributes:
        field: The part of the tensor at fault: `data_type`, `shape`, `raw`, `strings` or `strings[I]`.
        description: What was expected and what was received.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description

    def __reduce__(self) -> tuple[type["TensorError"], tuple[str, str]]:
        return type(self), (self.field, self.description)


class TensorContainer(Protocol):
    """A repeated field of tensors in a message, such as `PredictRequest.inputs`."""

    def add(self, **fields: Any) -> Tensor:
        """Appends a tensor with the given fields and returns it."""
        ...


def decode(tensor: Tensor) -> Array:
    """Converts a tensor to an array.

    The array has the tensor's shape and is read-only. Numbers are little-endian and share the memory of the message.
    Strings are `str` in an object array.

    Raises:
        TensorError: The element type is unknown, the shape is impossible, or the elements do not match the type and the
            shape.
    """
    data_type = tensor.data_type
    shape = tuple(tensor.shape)
    if shape and (min(shape) < 0 or len(shape) > MAX_RANK):
        raise _bad_shape(shape)
    sized = _SIZED.get(data_type)
    if sized is None:
        if data_type == _STRING:
            return _decode_strings(tensor, shape)
        raise TensorError("data_type", f"expected a DataType that holds elements, got {_name(data_type)}")
    dtype, size = sized
    raw = tensor.raw
    expected = math.prod(shape) * size
    if len(raw) != expected:
        raise _bad_length(data_type, shape, expected, len(raw))
    if tensor.strings:
        raise TensorError("strings", f"expected none in a {_name(data_type)} tensor, got {len(tensor.strings)}")
    if data_type == _BOOL and not holds_bools(raw):
        raise TensorError("raw", "expected every byte of a bool tensor to be 0 or 1, got another value")
    try:
        return np.ndarray(shape, dtype, raw)
    except ValueError:
        # Only if a dimension is 0 and the product of the other dimensions overflows in NumPy.
        raise _too_large(shape) from None


def encode(name: str, array: Array) -> Tensor:
    """Converts an array to a tensor with the given name.

    Arrays of any layout and byte order are accepted. Strings may have NumPy's `U`, `S` or `StringDType`, or be objects
    that are `str` or UTF-8 `bytes`.

    Raises:
        TensorError: The protocol has no element type for the array, its rank exceeds MAX_RANK, or a string is not valid
            UTF-8.
    """
    code = _CODES.get(array.dtype)
    if code is None or len(array.shape) > MAX_RANK:
        return Tensor(name=name, **_unusual_fields(array))
    return Tensor(name=name, data_type=code, shape=array.shape, raw=array.tobytes())  # type: ignore[arg-type] # an int is an enum's value


def append(tensors: TensorContainer, name: str, array: Array) -> None:
    """Converts an array to a tensor and appends it to a message's repeated field.

    Equivalent to `tensors.append(encode(name, array))`, but creates the tensor in place, because protobuf copies a
    message that is added to another.

    Raises:
        TensorError: As for `encode`. Nothing is appended then.
    """
    code = _CODES.get(array.dtype)
    if code is None or len(array.shape) > MAX_RANK:
        tensors.add(name=name, **_unusual_fields(array))
    else:
        tensors.add(name=name, data_type=code, shape=array.shape, raw=array.tobytes())


def _unusual_fields(array: Array) -> dict[str, Any]:
    """Returns the fields of a tensor for an array that does not consist of little-endian numbers."""
    if len(array.shape) > MAX_RANK:
        raise _bad_shape(array.shape)
    dtype = array.dtype
    if dtype.kind in "OUST":
        elements = array.ravel().tolist()
        return {"data_type": _STRING, "shape": array.shape, "strings": list(_utf8(elements))}
    turned = dtype.newbyteorder("<")
    code = _CODES.get(turned)
    if code is None:
        held = ", ".join(sorted(kept.name for kept in _CODES))
        raise TensorError("data_type", f"expected an array of {held} or strings, got {dtype}")
    return {"data_type": code, "shape": array.shape, "raw": array.astype(turned).tobytes()}


def _utf8(elements: Iterable[object]) -> Iterable[bytes]:
    for index, element in enumerate(elements):
        try:
            if isinstance(element, str):
                yield element.encode()
            elif isinstance(element, bytes):
                element.decode()
                yield element
            else:
                kind = type(element).__name__
                raise TensorError(f"strings[{index}]", f"expected str or bytes in an array of objects, got {kind}")
        except UnicodeError:
            raise TensorError(f"strings[{index}]", "expected text that UTF-8 can hold, got something else") from None


def _decode_strings(tensor: Tensor, shape: tuple[int, ...]) -> Array:
    strings = tensor.strings
    expected = math.prod(shape)
    if len(strings) != expected:
        raise TensorError("strings", f"expected {_count(expected)} for shape {list(shape)}, got {len(strings)}")
    if tensor.raw:
        raise TensorError("raw", f"expected no bytes in a string tensor, got {len(tensor.raw)}")
    try:
        decoded = [element.decode() for element in strings]
    except UnicodeDecodeError:
        raise _bad_utf8(strings) from None
    array: Array = np.empty(expected, object)
    array[:] = decoded
    try:
        array = array.reshape(shape)
    except ValueError:
        raise _too_large(shape) from None
    array.flags.writeable = False
    return array


def holds_bools(raw: bytes) -> bool:
    """Returns whether every byte of `raw` is 0 or 1."""
    # `translate` is faster for 64 bytes (0.1 us), NumPy for 1 MB (6 us instead of 290 us).
    if len(raw) < 4096:
        return not raw.translate(None, _BOOL_BYTES)
    return bool(np.frombuffer(raw, np.uint8).max() <= 1)


def _bad_shape(shape: tuple[int, ...]) -> TensorError:
    if len(shape) > MAX_RANK:
        return TensorError("shape", f"expected at most {MAX_RANK} dimensions, got {len(shape)}")
    return TensorError("shape", f"expected dimensions of 0 or more, got {list(shape)}")


def _bad_length(data_type: int, shape: tuple[int, ...], expected: int, got: int) -> TensorError:
    if expected > _MAX_BYTES:
        return _too_large(shape)
    return TensorError("raw", f"expected {expected} bytes for {_name(data_type)}{list(shape)}, got {got}")


def _too_large(shape: tuple[int, ...]) -> TensorError:
    return TensorError("shape", f"expected dimensions that memory can hold, got {list(shape)}")


def _bad_utf8(strings: Iterable[bytes]) -> TensorError:
    for index, element in enumerate(strings):
        try:
            element.decode()
        except UnicodeDecodeError as error:
            return TensorError(f"strings[{index}]", f"expected UTF-8, got another byte at {error.start}")
    raise AssertionError("one of the strings is not UTF-8")


def _count(elements: int) -> str:
    return str(elements) if elements <= _MAX_BYTES else "more elements than can be counted"


def _name(data_type: int) -> str:
    """Returns the readable name of an element type, for example `float32`."""
    try:
        return DataType.Name(data_type).removeprefix("DATA_TYPE_").lower()
    except ValueError:
        return str(data_type)
