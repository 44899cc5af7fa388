"""Protobuf's wire format, against protobuf's own writer and parser."""

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, UInt64Value

from turnout.wire_format import WireFormatError, delimited, read_varint, varint


@pytest.mark.parametrize("value", [1, 127, 128, 300, 2**32 - 1, 2**63, 2**64 - 1])
def test_a_number_is_written_and_read_as_protobuf_does(value: int) -> None:
    written = varint(value)
    assert b"\x08" + written == UInt64Value(value=value).SerializeToString()
    assert read_varint(b"\xff" + written + b"\xff", 1, len(written) + 2) == (value, len(written) + 1)


def test_nothing_is_one_byte() -> None:
    assert (varint(0), read_varint(b"\x00", 0, 1)) == (b"\x00", (0, 1))


def test_a_field_of_bytes_is_written_as_protobuf_does() -> None:
    assert delimited(1, b"x" * 200) == BytesValue(value=b"x" * 200).SerializeToString()


@pytest.mark.parametrize(
    ("data", "stop"), [(b"", 0), (b"\x80", 1), (b"\x80\x01", 1), (b"\xff" * 10 + b"\x01", 11)]
)  # fmt: skip
def test_a_number_that_does_not_end_in_time_is_malformed(data: bytes, stop: int) -> None:
    with pytest.raises(WireFormatError):
        read_varint(data, 0, stop)
