"""Compressed messages and bodies: out come those that went in, and never more than may be."""

import gzip
import random
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.decompression import CompressionError, DecompressedTooLarge
from turnout.decompression import decompress as decompress_data
from turnout.rpc.transport.asgi.compression import accepts_gzip, compress, decompress
from turnout.rpc.transport.port import StatusError

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
        with pytest.raises(StatusError, match="at most"):
            decompress(bomb, encoding, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("damage", [lambda m: m[:-5], lambda m: m + b"x", lambda m: b"nothing of it"])
def test_what_is_not_one_whole_message_is_refused(encoding: bytes, damage) -> None:
    with pytest.raises(StatusError, match=encoding.decode()):
        decompress(damage(PACK[encoding](b"a message" * 10)), encoding, 1000)


@pytest.mark.parametrize("encoding", PACK)
def test_no_bytes_are_an_empty_message_as_for_grpcs_own_servers(encoding: bytes) -> None:
    assert decompress(b"", encoding, 1000) == b""


def test_a_call_that_names_no_encoding_sends_no_compressed_message() -> None:
    with pytest.raises(StatusError, match="without grpc-encoding"):
        decompress(b"", b"identity", 1000)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [(b"", False), (b"identity", False), (b"gzip", True), (b"identity, deflate, gzip", True), (b"x-gzip", False)],
)
def test_gzip_is_accepted_by_its_name(header: bytes, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_gzip_may_have_several_members(contents: list[bytes]) -> None:
    members = b"".join(map(gzip.compress, contents))
    assert decompress_data(members, "gzip", 6000) == gzip.decompress(members) == b"".join(contents)


@pytest.mark.parametrize("first", [b"", b"x" * 10, bytes(200_000)])
def test_members_may_have_any_sizes(first: bytes) -> None:
    second = random.Random(1).randbytes(200_000)
    for contents in ((first, second), (second, first), (second, first, second)):
        whole = b"".join(contents)
        assert decompress_data(b"".join(map(gzip.compress, contents)), "gzip", len(whole)) == whole


MEMBER = gzip.compress(b"a message" * 10)


DAMAGED = {
    "nothing": b"",
    "the last is cut": MEMBER + MEMBER[:-5],
    "the first is cut": MEMBER[:-5] + MEMBER,
    "zeros follow": MEMBER + b"\0" * 512,
    "half a magic number follows": MEMBER + b"\x1f",
    "half a header follows": MEMBER + MEMBER[:9],
    "a byte between": MEMBER + b"x" + MEMBER,
    "a zlib stream follows": MEMBER + zlib.compress(b"x"),
    "the last has another length": MEMBER + MEMBER[:-1] + b"\xff",
}
"""What is sent, by what is wrong with it: names without the time, which gzip writes into its header."""


@pytest.mark.parametrize("wrong", DAMAGED)
def test_what_is_not_whole_members_is_refused(wrong: str) -> None:
    with pytest.raises(CompressionError, match="gzip"):
        decompress_data(DAMAGED[wrong], "gzip", 1000)


def test_a_zlib_stream_has_no_members() -> None:
    with pytest.raises(CompressionError, match="one whole deflate stream"):
        decompress_data(zlib.compress(b"x") * 2, "deflate", 1000)


@pytest.mark.parametrize("limit", [0, 89, 90, 179, 180, 5000])
def test_the_limit_is_that_of_all_members_together(limit: int) -> None:
    if limit < 180:
        with pytest.raises(DecompressedTooLarge):
            decompress_data(MEMBER * 2, "gzip", limit)
    else:
        assert len(decompress_data(MEMBER * 2, "gzip", limit)) == 180


def test_a_bomb_of_members_is_refused_and_costs_its_limit_at_most() -> None:
    bomb = gzip.compress(bytes(64 << 10)) * 1024
    tracemalloc.start()
    try:
        with pytest.raises(DecompressedTooLarge):
            decompress_data(bomb, "gzip", 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_members_without_content_are_limited_in_number() -> None:
    blocks = gzip.compress(bytes(1024)) * 3000  # as many as a file of many small blocks may have
    assert len(decompress_data(blocks, "gzip", 3 << 20)) == 3000 * 1024
    for content in (b"", b"x"):
        with pytest.raises(CompressionError, match="fewer gzip members"):
            decompress_data(gzip.compress(content) * 3000, "gzip", 3 << 20)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]), st.integers(0, 500))
def test_no_bytes_cause_another_error(data: bytes, encoding: str, limit: int) -> None:
    with suppress(CompressionError, DecompressedTooLarge):
        decompress_data(data, encoding, limit)
    with suppress(CompressionError, DecompressedTooLarge):
        decompress_data(MEMBER + data, encoding, limit)
