"""The framing of gRPC messages: a byte that says whether the message is compressed, its length in 4 bytes, the message.

See https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from collections import deque
from collections.abc import Sequence
from struct import Struct

from turnout.chunks import ChunkedBytes, Serialized, add_chunk
from turnout.rpc.transport.asgi.statuses import INTERNAL, RESOURCE_EXHAUSTED, refusal
from turnout.rpc.transport.port import StatusError

PREFIX = Struct(">BI")
"""The prefix of a message: 1 if the message is compressed, else 0; then its size in bytes."""

PREFIX_BYTES = PREFIX.size

_CHUNKED_BYTES = 1024 * 1024
"""Size in bytes above which a message is left in chunks. Joining them would hold the event loop for a millisecond or
more, and the elements of tensors are copied from the message anyway."""


def too_large(limit: int) -> StatusError:
    """Returns the error for a message that exceeds the limit, in bytes."""
    message = f"expected a message of at most {limit} bytes (limits.max_message_bytes)"
    return refusal(RESOURCE_EXHAUSTED, message)


def grouped(parts: Sequence[bytes], most: int) -> list[list[bytes]]:
    """Returns the parts of messages in groups to join: of at most `most` bytes, or a single part that is larger."""
    if sum(map(len, parts)) <= most:
        return [list(parts)]
    groups: list[list[bytes]] = []
    room = 0
    for part in parts:
        if not groups or len(part) > room:
            groups.append([])
            room = most
        groups[-1].append(part)
        room -= len(part)
    return groups


class FrameSplitter:
    """Splits a stream of chunks into messages, regardless of where the chunks begin and end.

    A message that is too large is rejected when its prefix is read, before any of its data is stored. Each message is
    copied once, or not at all if it is large.
    """

    __slots__ = ("_begun", "_chunks", "_flag", "_length", "_limit", "_offset", "buffered")

    def __init__(self, limit: int) -> None:
        """Starts without data. A message may have `limit` bytes, before decompression."""
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._offset = 0  # of the first unread byte in the first chunk
        self._begun = False
        self._flag = 0
        self._length = 0
        self.buffered = 0
        """Number of bytes received but not yet returned."""

    @property
    def partial(self) -> bool:
        """Whether a message has been received in part."""
        return self._begun or self.buffered > 0

    def feed(self, chunk: bytes) -> None:
        """Adds a chunk. Before the next call, `next` must be called until it returns None."""
        add_chunk(self._chunks, chunk)
        self.buffered += len(chunk)

    def next(self) -> tuple[bool, Serialized] | None:
        """Returns the next message, preceded by whether it is compressed; None until the message is complete.

        Raises:
            StatusError: The message's prefix is invalid, or announces a size above the limit.
        """
        if not self._begun:
            if self.buffered < PREFIX_BYTES:
                return None
            if (message := self._whole()) is not None:
                return False, message
            self._flag, self._length = PREFIX.unpack(b"".join(self._take(PREFIX_BYTES)))
            self._begun = True
            if self._flag > 1:
                raise refusal(INTERNAL, "expected a message's prefix to begin with 0 or 1")
            if self._length > self._limit:
                raise too_large(self._limit)
        if self.buffered < self._length:
            return None
        self._begun = False
        parts = self._take(self._length)
        return bool(self._flag), ChunkedBytes(parts) if self._length > _CHUNKED_BYTES else b"".join(parts)

    def _whole(self) -> bytes | None:
        """Returns the next message if it is uncompressed and contained in one chunk, which is the usual case."""
        chunk, start = self._chunks[0], self._offset + PREFIX_BYTES
        if len(chunk) < start:
            return None
        flag, length = PREFIX.unpack_from(chunk, self._offset)
        stop = start + length
        if flag or length > self._limit or len(chunk) < stop:
            return None
        if len(chunk) == stop:
            self._chunks.popleft()
            self._offset = 0
        else:
            self._offset = stop
        self.buffered -= length + PREFIX_BYTES
        return chunk[start:stop]

    def _take(self, size: int) -> list[bytes]:
        """Removes and returns the next `size` bytes, which must have been received, in chunks."""
        self.buffered -= size
        parts: list[bytes] = []
        while size:
            chunk, start = self._chunks[0], self._offset
            end = start + size
            if end < len(chunk):
                self._offset = end
                parts.append(chunk[start:end])
                break
            self._chunks.popleft()
            self._offset = 0
            size = end - len(chunk)
            parts.append(chunk[start:])
        return parts
