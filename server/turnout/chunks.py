"""Collects the chunks of a message in little more memory than their bytes, and reads a message in chunks. Pure."""

from bisect import bisect_right
from collections.abc import MutableSequence, Sequence
from itertools import accumulate
from typing import TypeAlias

_SMALL_BYTES = 4096


def add_chunk(chunks: MutableSequence[bytes], chunk: bytes) -> None:
    """Appends a chunk, joining it to the previous one while the two are small.

    Each `bytes` object takes 33 bytes in addition to its contents, and a client decides how small the chunks are. Sent
    in chunks of 2 bytes, a message would take 20 times its size, which the limits on the sizes of messages do not take
    into account.
    """
    if chunks and len(chunks[-1]) + len(chunk) <= _SMALL_BYTES:
        chunks[-1] += chunk
    else:
        chunks.append(chunk)


class ChunkedBytes:
    """Bytes in chunks, of which slices are read without joining the rest. `bytes` joins all of them."""

    __slots__ = ("_chunks", "_starts")

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks
        self._starts = list(accumulate(map(len, chunks), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __bytes__(self) -> bytes:
        return b"".join(self._chunks)

    def __getitem__(self, at: slice) -> bytes:
        start, stop, _ = at.indices(len(self))
        parts = []
        for index in range(bisect_right(self._starts, start) - 1, len(self._chunks)):
            offset = self._starts[index]
            if offset >= stop:
                break
            parts.append(self._chunks[index][max(start - offset, 0) : stop - offset])
        return b"".join(parts)  # without the GIL, since all parts are bytes


Serialized: TypeAlias = bytes | ChunkedBytes
"""A client's message. `bytes` joins a large one, which may still be in chunks."""
