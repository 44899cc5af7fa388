"""Decompresses what clients send, within limits on size and time. Pure.

`gzip` is RFC 1952, in which a file consists of any number of members; `deflate` is what HTTP and gRPC call RFC 1950.
"""

import zlib
from collections.abc import Mapping

WINDOWS: Mapping[str, int] = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's `wbits` for each encoding that is accepted."""

_FREE_MEMBERS = 1024
_MEMBER_BYTES = 1024
"""There may be this many members, and one more for each such number of decompressed bytes. A member costs 2 us even if
it is empty, and takes 20 bytes: without this limit, 64 MiB of them would take seconds."""

_FIRST_READ = 64
"""How many bytes of a member after the first are read at once; then twice as many, and so on. What is read beyond the
member's end is copied, which in total is no more than the members themselves."""


class CompressionError(ValueError):
    """Raised when data is not in the encoding that it is said to be in."""


class DecompressedTooLarge(ValueError):
    """Raised when the decompressed data exceeds the limit."""


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """Returns the decompressed data. Stops as soon as it exceeds `limit` bytes.

    Args:
        data: One zlib stream, or one or more gzip members, with nothing else before, between or after them.
        encoding: `gzip` or `deflate`.
        limit: Maximum size of the decompressed data in bytes.

    Raises:
        CompressionError: The data is not in that encoding, is incomplete or is followed by other data.
        DecompressedTooLarge: The decompressed data exceeds the limit.
    """
    parts: list[bytes] = []
    size = at = members = 0
    step = len(data)  # a single member, which is the usual case, is read in one go
    while at < len(data) or not members:
        if members > _FREE_MEMBERS + size // _MEMBER_BYTES:
            raise CompressionError(f"expected fewer gzip members: {members} of them contain {size} bytes")
        decompressor = zlib.decompressobj(WINDOWS[encoding])
        while not decompressor.eof:
            if at >= len(data):
                raise CompressionError(f"expected one whole {encoding} stream")
            piece = memoryview(data)[at : at + step]
            at, step = at + len(piece), step * 2
            try:
                parts.append(decompressor.decompress(piece, limit + 1 - size))
            except zlib.error:
                raise CompressionError(f"expected {encoding}") from None
            size += len(parts[-1])
            if size > limit:
                raise DecompressedTooLarge(limit)
        at -= len(decompressor.unused_data)
        if encoding != "gzip" and at < len(data):
            raise CompressionError(f"expected one whole {encoding} stream")
        members += 1
        step = _FIRST_READ
    return b"".join(parts)
