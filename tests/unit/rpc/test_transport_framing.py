"""Messages in their frames: whatever way they are cut, those that go in come out; what is too large is not kept, and
a large message is not copied.
"""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout import chunks
from turnout.chunks import ChunkedBytes
from turnout.rpc.transport.asgi import framing
from turnout.rpc.transport.asgi.framing import PREFIX, FrameSplitter, grouped
from turnout.rpc.transport.port import StatusError

FRAMES = st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=12)


def wire(frames: list[tuple[bool, bytes]]) -> bytes:
    return b"".join(PREFIX.pack(compressed, len(message)) + message for compressed, message in frames)


@given(
    FRAMES, st.lists(st.integers(0, 600), max_size=30), st.sampled_from([0, 20, 4096]), st.sampled_from([0, 20, 100])
)
def test_however_frames_are_cut_the_messages_come_out(
    frames: list[tuple[bool, bytes]], cuts: list[int], joined_bytes: int, chunked_bytes: int
) -> None:
    data, splitter, messages = wire(frames), FrameSplitter(100), []
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_SMALL_BYTES", joined_bytes)
        patch.setattr(framing, "_CHUNKED_BYTES", chunked_bytes)
        for start, end in itertools.pairwise(edges):
            splitter.feed(data[start:end])
            while (message := splitter.next()) is not None:
                messages.append((message[0], bytes(message[1])))
    assert messages == frames
    assert splitter.next() is None
    assert not splitter.partial
    assert splitter.buffered == 0


@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_message_that_has_begun_is_partial_until_it_is_whole(message: bytes, data: st.DataObject) -> None:
    framed = wire([(False, message)])
    cut = data.draw(st.integers(1, len(framed) - 1))
    splitter = FrameSplitter(100)
    splitter.feed(framed[:cut])
    assert splitter.next() is None
    assert splitter.partial
    splitter.feed(framed[cut:])
    assert splitter.next() == (False, message)
    assert not splitter.partial


def test_a_message_that_is_too_large_is_refused_by_its_prefix() -> None:
    splitter = FrameSplitter(1000)
    splitter.feed(PREFIX.pack(0, 1001))
    with pytest.raises(StatusError, match="at most 1000 bytes"):
        splitter.next()


def test_what_does_not_begin_with_0_or_1_is_no_frame() -> None:
    splitter = FrameSplitter(1000)
    splitter.feed(b"\2\0\0\0\1x")
    with pytest.raises(StatusError, match="0 or 1"):
        splitter.next()


def test_messages_in_a_large_chunk_are_cut_off_it_one_by_one() -> None:
    splitter = FrameSplitter(100)
    splitter.feed(wire([(False, b"x" * 50)] * 20_000))
    assert sum(1 for _ in iter(splitter.next, None)) == 20_000


def test_a_message_in_tiny_chunks_takes_little_more_memory_than_its_size() -> None:
    count, splitter = 60_000, FrameSplitter(1 << 20)
    splitter.feed(PREFIX.pack(0, 2 * count))
    assert splitter.next() is None
    tracemalloc.start()
    try:
        for number in range(count - 1):
            splitter.feed(number.to_bytes(2, "big"))
            assert splitter.next() is None
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    splitter.feed((count - 1).to_bytes(2, "big"))
    assert splitter.next() == (False, b"".join(number.to_bytes(2, "big") for number in range(count)))
    assert taken < 4 * count  # half of it the message itself


def test_a_large_message_is_left_in_the_chunks_in_which_it_came() -> None:
    sent = [bytes([number]) * 65_536 for number in range(33)]
    splitter = FrameSplitter(4 << 20)
    splitter.feed(PREFIX.pack(0, 33 * 65_536))
    for chunk in sent:
        assert splitter.next() is None
        splitter.feed(chunk)
    compressed, message = splitter.next() or (True, b"")
    assert not compressed
    assert isinstance(message, ChunkedBytes)
    assert all(message[number * 65_536 : (number + 1) * 65_536] is chunk for number, chunk in enumerate(sent))


@given(st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=8), st.data())
def test_chunked_bytes_have_the_length_and_the_slices_of_the_bytes(parts: list[bytes], data: st.DataObject) -> None:
    whole, chunked = b"".join(parts), ChunkedBytes(parts)
    edge = st.one_of(st.none(), st.integers(-len(whole) - 2, len(whole) + 2))
    start, stop = data.draw(edge), data.draw(edge)
    assert (len(chunked), bytes(chunked), chunked[start:stop]) == (len(whole), whole, whole[start:stop])


@given(st.lists(st.binary(max_size=12), min_size=1), st.integers(1, 20))
def test_groups_of_parts_have_all_of_them_in_order_and_only_a_single_part_exceeds_the_most(
    parts: list[bytes], most: int
) -> None:
    groups = grouped(parts, most)
    assert [part for group in groups for part in group] == parts
    for group in groups:
        assert len(group) == 1 or sum(map(len, group)) <= most
