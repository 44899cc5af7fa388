"""How gRPC frames messages: a byte that says whether a message is compressed, four with its length, the message.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from collections import deque
from struct import Struct

PREFIX = Struct(">BI")
"""Of a message: 1 if it is compressed, else 0; its bytes."""

PREFIX_BYTES = PREFIX.size


class FramingError(Exception):
    """What came is not framed as gRPC frames messages."""


class MessageTooLarge(Exception):
    """A message has more bytes than it may have.

    Attributes:
        limit: Most bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"expected a message of at most {limit} bytes")
        self.limit = limit


class FrameSplitter:
    """Cuts what comes of a request into messages, however it is cut on its way.

    A message that is too large is refused by its prefix, before anything of it is kept. Each message is copied once.
    """

    __slots__ = ("_begun", "_chunks", "_flag", "_length", "_limit", "_offset", "buffered")

    def __init__(self, limit: int) -> None:
        """Prepares.

        Args:
            limit: Most bytes of a message, as it is sent.
        """
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._offset = 0  # of what is not taken yet, in the first chunk
        self._begun = False
        self._flag = 0
        self._length = 0
        self.buffered = 0
        """Bytes that came and were not taken."""

    @property
    def partial(self) -> bool:
        """Whether a message has begun that is not whole."""
        return self._begun or self.buffered > 0

    def feed(self, chunk: bytes) -> None:
        """Takes what came; `next` is to be called until it has no message before more is fed."""
        self._chunks.append(chunk)
        self.buffered += len(chunk)

    def next(self) -> tuple[bool, bytes] | None:
        """Returns whether the next message is compressed, and the message; None until it is whole.

        Raises:
            FramingError: It is not framed.
            MessageTooLarge: It will be larger than the limit.
        """
        if not self._begun:
            if self.buffered < PREFIX_BYTES:
                return None
            if (message := self._whole()) is not None:
                return False, message
            self._flag, self._length = PREFIX.unpack(self._take(PREFIX_BYTES))
            self._begun = True
            if self._flag > 1:
                raise FramingError("expected a message's prefix to begin with 0 or 1")
            if self._length > self._limit:
                raise MessageTooLarge(self._limit)
        if self.buffered < self._length:
            return None
        self._begun = False
        return bool(self._flag), self._take(self._length)

    def _whole(self) -> bytes | None:
        """Returns the next message if it is not compressed and lies in one chunk, as most do."""
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

    def _take(self, size: int) -> bytes:
        """Returns the next `size` bytes, all of which have come."""
        self.buffered -= size
        parts: list[bytes | memoryview] = []
        while size:
            chunk, start = self._chunks[0], self._offset
            end = start + size
            if end < len(chunk):
                self._offset = end
                if not parts:
                    return chunk[start:end]
                parts.append(memoryview(chunk)[start:end])
                break
            self._chunks.popleft()
            self._offset = 0
            size = end - len(chunk)
            parts.append(memoryview(chunk)[start:] if start else chunk)
        return b"".join(parts)
