"""The parts of protobuf's wire format that are read and written here without the protobuf library. Pure.

A message is a sequence of fields. A field consists of a tag (the field number and the wire type) and a value in the
format of that wire type. Numbers are encoded as varints, with seven bits per byte and the lowest bits first. See
https://protobuf.dev/programming-guides/encoding/.
"""

import mmap
from typing import Final

VARINT: Final = 0
"""The wire type of varints: integers, booleans and enums."""

LENGTH_DELIMITED: Final = 2
"""The wire type of bytes, strings, messages and packed lists."""

FIXED_BYTES: Final = {1: 8, 5: 4}
"""Size in bytes of the values of the wire types of fixed size."""

MOST_VARINT_BYTES: Final = 10

_KEPT_LENGTHS = 4096

_SINGLE = [bytes((value,)) for value in range(128)]


class WireFormatError(ValueError):
    """Raised when bytes are not in protobuf's wire format."""


def varint(value: int) -> bytes:
    """Encodes a non-negative integer as a varint."""
    if value < 128:
        return _SINGLE[value]
    if value < 16384:
        return bytes((value & 127 | 128, value >> 7))
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def read_varint(data: bytes | mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """Returns the varint that starts at `at`, and the index of the byte after it.

    Raises:
        WireFormatError: The varint does not end before `stop`, or has more than 10 bytes.
    """
    value = shift = 0
    for place in range(at, min(stop, at + MOST_VARINT_BYTES)):
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise WireFormatError


def read_field(data: bytes | mmap.mmap, at: int, stop: int) -> tuple[int, int, int, int]:
    """Returns the number and the wire type of the field that starts at `at`, and where its value begins and ends.

    Raises:
        WireFormatError: The field does not end before `stop`, or has another wire type, such as that of a group.
    """
    key, at = read_varint(data, at, stop)
    wire_type = key & 7
    if wire_type == LENGTH_DELIMITED:
        size, at = read_varint(data, at, stop)
        end = at + size
    elif wire_type == VARINT:
        end = read_varint(data, at, stop)[1]
    elif wire_type in FIXED_BYTES:
        end = at + FIXED_BYTES[wire_type]
    else:
        raise WireFormatError
    if end > stop:
        raise WireFormatError
    return key >> 3, wire_type, at, end


def tag(number: int, wire_type: int = LENGTH_DELIMITED) -> bytes:
    """Returns the tag of a field, which precedes its length or value."""
    return varint(number << 3 | wire_type)


def length_delimited(number: int, size: int) -> bytes:
    """Returns the tag and the length that precede the bytes of a length-delimited field of `size` bytes."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(size)


def delimited(number: int, data: bytes) -> bytes:
    """Returns a length-delimited field."""
    return length_delimited(number, len(data)) + data


class Lengths(dict[int, bytes]):
    """A cache of the bytes that `length_delimited` returns for one field, by size."""

    def __init__(self, number: int) -> None:
        """Creates an empty cache for the field with the given number."""
        self._number = number

    def __missing__(self, size: int) -> bytes:
        """Computes the bytes for a new size, and caches them if the size is small."""
        before = length_delimited(self._number, size)
        if size < _KEPT_LENGTHS:
            self[size] = before
        return before
