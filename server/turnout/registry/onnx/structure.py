"""Removes the contents of large tensors from an ONNX file, working on its bytes: protobuf would read all of them.

A message in protobuf's wire format is a sequence of fields: a number and a wire type, followed by the value. Fields
that cannot contain a large tensor are copied unchanged. Those that can are processed recursively, and the data fields
of tensors larger than `SMALL_TENSOR` are left out.
"""

import mmap
from collections.abc import Mapping
from typing import Final

from turnout.errors import InvalidModel
from turnout.registry.onnx.messages import NO_MODEL
from turnout.wire_format import LENGTH_DELIMITED, WireFormatError, delimited, read_field

SMALL_TENSOR: Final = 64 * 1024
"""Size of a message in bytes up to which it is copied unchanged, whatever it contains."""

# Fields, by message, that lead to a tensor, and the messages in them. From onnx/onnx.proto; the numbers never change.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_DATA = frozenset({4, 5, 6, 7, 9, 10, 11})
"""The fields float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data."""

_MOST_DEPTH = 100
"""Maximum nesting depth of messages. Protobuf's own parser has the same limit."""


def without_weights(data: bytes | mmap.mmap) -> bytes:
    """Returns the bytes of an ONNX model without the contents of its large tensors.

    Raises:
        InvalidModel: The data is not in protobuf's wire format.
    """
    try:
        return _stripped(data, 0, len(data), "model", 0)
    except WireFormatError:
        raise InvalidModel(NO_MODEL) from None


def _stripped(data: bytes | mmap.mmap, start: int, stop: int, message: str, depth: int) -> bytes:
    if depth > _MOST_DEPTH:
        raise WireFormatError
    inner = _MESSAGES[message]
    kept = bytearray()
    copied = at = start  # the bytes between these positions are not copied yet
    while at < stop:
        field_start = at
        number, wire_type, body, at = read_field(data, at, stop)
        if wire_type != LENGTH_DELIMITED or at - body <= SMALL_TENSOR:
            continue
        if number in inner:
            within = _stripped(data, body, at, inner[number], depth + 1)
            kept += data[copied:field_start] + delimited(number, within)
            copied = at
        elif message == "tensor" and number in _TENSOR_DATA:
            kept += data[copied:field_start]
            copied = at
    return bytes(kept + data[copied:stop])
