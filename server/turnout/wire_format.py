"""Protobuf's wire format, as far as it is read and written here without protobuf. Pure.

A message is a row of fields: a number and a wire type, then what that type says. Numbers are written seven bits a byte,
the lowest first (https://protobuf.dev/programming-guides/encoding/).
"""

import mmap
from typing import Final

VARINT: Final = 0
"""The wire type of numbers."""

LENGTH_DELIMITED: Final = 2
"""The wire type of bytes, text, messages and packed lists."""

MOST_VARINT_BYTES: Final = 10

_KEPT_LENGTHS = 4096

_SINGLE = [bytes((value,)) for value in range(128)]


class WireFormatError(ValueError):
    """Bytes are not in protobuf's wire format."""


def varint(value: int) -> bytes:
    """Returns `value`, which is not negative, as protobuf writes numbers."""
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
    """Returns the number that begins at `at`, and where it ends.

    Raises:
        Malformed: It does not end before `stop`, or has more than ten bytes.
    """
    value = shift = 0
    for place in range(at, min(stop, at + MOST_VARINT_BYTES)):
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise WireFormatError


def tag(number: int, wire_type: int = LENGTH_DELIMITED) -> bytes:
    """Returns what goes before the length, or the value, of a field."""
    return varint(number << 3 | wire_type)


def length_delimited(number: int, size: int) -> bytes:
    """Returns what goes before the bytes of a length-delimited field that has `size` of them."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(size)


def delimited(number: int, data: bytes) -> bytes:
    """Returns a length-delimited field."""
    return length_delimited(number, len(data)) + data


class Lengths(dict[int, bytes]):
    """What goes before the bytes of one length-delimited field, by how many they are; each is made once."""

    def __init__(self, number: int) -> None:
        """Prepares for the field of that number."""
        self._number = number

    def __missing__(self, size: int) -> bytes:
        """Returns what was not made yet, and keeps it if it is for few bytes."""
        before = length_delimited(self._number, size)
        if size < _KEPT_LENGTHS:
            self[size] = before
        return before
