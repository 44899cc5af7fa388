"""Compressed messages: out come those that went in, and never more than may be."""

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.rpc.transport.asgi.compression import accepts_gzip, compress, decompress
from turnout.rpc.transport.asgi.framing import FramingError, MessageTooLarge

PACK = {b"gzip": gzip.compress, b"deflate": zlib.compress}


@given(st.binary(max_size=2000))
def test_what_is_compressed_can_be_read(message: bytes) -> None:
    assert gzip.decompress(compress(message)) == message
    for encoding, pack in PACK.items():
        assert decompress(pack(message), encoding, 2000) == message


@pytest.mark.parametrize("encoding", PACK)
def test_a_bomb_is_refused_and_costs_its_limit_at_most(encoding: bytes) -> None:
    bomb = PACK[encoding](bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLarge):
            decompress(bomb, encoding, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("damage", [lambda m: m[:-5], lambda m: m + b"x", lambda m: b"", lambda m: b"nothing of it"])
def test_what_is_not_one_whole_message_is_refused(encoding: bytes, damage) -> None:
    with pytest.raises(FramingError, match=encoding.decode()):
        decompress(damage(PACK[encoding](b"a message" * 10)), encoding, 1000)


def test_a_call_that_names_no_encoding_sends_no_compressed_message() -> None:
    with pytest.raises(FramingError, match="without grpc-encoding"):
        decompress(b"", b"identity", 1000)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [(b"", False), (b"identity", False), (b"gzip", True), (b"identity, deflate, gzip", True), (b"x-gzip", False)],
)
def test_gzip_is_accepted_by_its_name(header: bytes, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted
